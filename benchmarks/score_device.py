"""Scoring on a device: kernels beside the bandwidth of a copy, and images a second from decoded images there."""

from collections.abc import Callable

import numpy as np
import open_clip
import torch

from benchmarks.bench_kernels import PREPROCESS
from benchmarks.timing import interleave, record, seconds
from discl.engine.backends.torch import TorchBackend
from discl.engine.clip_checkpoint import ClipCheckpoint
from discl.engine.scorer import Scorer
from discl.kernels import ClipPlan, clip_input, score_rows

ASKED = 20_000  # images a second on an H200


def score_kernels(device: torch.device, small: bool) -> None:
    """Gigabytes a second that must be moved, inputs and results once, beside those of a copy on the device.

    Inputs are so large that a call takes over a millisecond of an H200; a call's time is from its first launch to
    its result, by the device's own clock.
    """
    images = torch.randint(256, (2 if small else 2048, 512, 512, 3), dtype=torch.uint8, device=device)
    plan = ClipPlan.build(512, 512, PREPROCESS, device)
    result = images.shape[0] * 3 * plan.height * plan.width * 2
    rows, classes, levels = 1000 if small else 1 << 22, 10, 5
    embeddings = torch.randn(rows, 512, device=device).half()
    texts, at = torch.randn(classes, 512, device=device).half(), torch.arange(rows, device=device)
    class_ids, level = at % classes, at % levels
    scored = embeddings.numel() * 2 + rows * (8 + 8 + 4 + 4 + 4 + 1)
    source = torch.empty(1000 if small else 1 << 31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock = device_seconds if device.type == "cuda" else seconds

    contestants = {
        "copy": lambda: 2 * source.numel() / clock(lambda: target.copy_(source)) / 1e9,
        "clip input": lambda: (images.numel() + result) / clock(lambda: clip_input(images, plan, torch.float16)) / 1e9,
        "score rows": lambda: (
            scored / clock(lambda: score_rows(embeddings, texts, class_ids, level, None, 0.3, levels)) / 1e9
        ),
    }
    for warm_up in contestants.values():
        warm_up()
    ratios = {f"{name} / copy": (name, "copy") for name in ("clip input", "score rows")}
    record("score", interleave(contestants, 2 if small else 30), "GB/s", ratios, keep=not small, part="kernels")


def device_seconds(function: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def score_on_device(model: torch.nn.Module, device: torch.device, small: bool) -> None:
    """ViT-B/32 in float16 from uint8 images on the device."""
    tokenize, width = open_clip.get_tokenizer("ViT-B-32"), int(model.text_projection.shape[1])
    batch, images = (2, 4) if small else (512, 8192)
    checkpoint = ClipCheckpoint(model, tokenize, PREPROCESS, width, "0" * 32)
    kind = torch.float16 if device.type == "cuda" else torch.float32
    backend = TorchBackend(device, compiled=device.type == "cuda")
    scorer = Scorer("random", checkpoint, device, kind, batch, backend)
    side = 64 if small else 512
    pixels = torch.randint(256, (images, side, side, 3), dtype=torch.uint8, device=device)
    contestants = {
        "discl": lambda: images / seconds(lambda: scorer.embed_images(pixels)),
        "20,000 a second": lambda: float(ASKED),
    }
    contestants["discl"]()
    rates = interleave(contestants, 2 if small else 10)
    assert np.isfinite(rates["discl"]).all()
    record(
        "score", rates, "images/s", {"discl / 20,000 a second": ("discl", "20,000 a second")}, keep=not small,
        part="images", model="ViT-B-32, random weights", dtype=str(kind).removeprefix("torch."), batch=batch,
    )  # fmt: skip
