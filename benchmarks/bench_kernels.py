"""Times each kernel's launcher beside its torch reference, call to result; the reference is the baseline.

On a CUDA device the launcher is the Triton kernel and every call
ends with a synchronise; on a CPU both reach the reference, and the difference is what the launcher checks.
One call before the clock starts keeps compile time out of the figures.
"""

from collections.abc import Callable

import pytest
import torch

from benchmarks.timing import record_micro
from discl import kernels
from discl.kernels import ClipPlan, reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SLOTS = 32
PREPROCESS = {
    "size": 224,
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}

both = pytest.mark.parametrize("room", [kernels, reference], ids=["launcher", "reference"])


def time_it(benchmark: Callable, function: Callable, *arguments: object) -> None:
    def call() -> None:
        function(*arguments)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    call()
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    benchmark(call)


@both
def test_guided_step(benchmark, room):
    latents = [torch.randn(SLOTS, 4, 64, 64, device=DEVICE) for _ in range(5)]
    x, cond, uncond, history, noise = latents
    guidance, coef = torch.rand(SLOTS, device=DEVICE) * 10, torch.rand(SLOTS, 10, device=DEVICE)
    time_it(benchmark, room.guided_step, x, cond, uncond, guidance, coef, history, noise)


@both
def test_to_uint8(benchmark, room):
    time_it(benchmark, room.to_uint8, torch.randn(4, 3, 512, 512, device=DEVICE))


@both
def test_clip_input(benchmark, room):
    plan = ClipPlan.build(512, 512, PREPROCESS, DEVICE)
    images = torch.randint(256, (4, 512, 512, 3), dtype=torch.uint8, device=DEVICE)
    time_it(benchmark, room.clip_input, images, plan, torch.float32)


@both
def test_cosine_scores(benchmark, room):
    embeddings, references = (torch.randn(64, 512, device=DEVICE) for _ in range(2))
    texts, class_ids = torch.randn(100, 512, device=DEVICE), torch.arange(64, device=DEVICE)
    time_it(benchmark, room.cosine_scores, embeddings, texts, class_ids, references, 0.3)


@both
def test_score_rows(benchmark, room):
    rows, classes, levels = (1 << 20 if DEVICE.type == "cuda" else 4096), 1000, 5
    embeddings, references = (torch.randn(rows, 512, device=DEVICE) for _ in range(2))
    texts, at = torch.randn(classes, 512, device=DEVICE), torch.arange(rows, device=DEVICE)
    time_it(benchmark, room.score_rows, embeddings, texts, at % classes, at % levels, references, 0.3, levels)


def run(small: bool = False) -> None:
    record_micro("kernels", __file__, pairs=("launcher", "reference"), small=small)
