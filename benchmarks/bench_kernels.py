"""Times each kernel's launcher beside its torch reference, call to result; the reference is the baseline.

On CUDA the GEGLU in float8 has two peers more: `inductor`, which is what torch.compile makes of the reference, and
`copy` of as many bytes as the kernel reads and writes, its ceiling.
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


@pytest.mark.parametrize(
    "room", [kernels, reference, "inductor", "copy"], ids=["launcher", "reference", "inductor", "copy"]
)
def test_geglu_fp8_rows(benchmark, room):
    if DEVICE.type == "cpu" and isinstance(room, str):
        pytest.skip("a peer on CUDA")
    # On CUDA the largest of SDXL's refiner at 480x272 with 32 rows.
    rows, width = (32 * 510, 3072) if DEVICE.type == "cuda" else (256, 1280)
    x = torch.randn(rows, 2 * width, device=DEVICE).bfloat16()
    if room == "copy":
        source = torch.empty(5 * rows * width // 2, dtype=torch.uint8, device=DEVICE)  # read, and written
        time_it(benchmark, torch.empty_like(source).copy_, source)
    elif room == "inductor":
        time_it(benchmark, torch.compile(reference.geglu_fp8_rows, dynamic=False), x)
    else:
        time_it(benchmark, room.geglu_fp8_rows, x)


@both
def test_fp8_rows(benchmark, room):
    rows, width = (32 * 510, 768) if DEVICE.type == "cuda" else (256, 768)
    time_it(benchmark, room.fp8_rows, torch.randn(rows, width, device=DEVICE).bfloat16())


def run(small: bool = False) -> None:
    record_micro("kernels", __file__, ours="launcher", peers=("reference", "inductor", "copy"), small=small)
