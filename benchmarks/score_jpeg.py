"""`discl score` on a store of JPEGs, from shards to written scores, beside decoding alone with DALI and with PIL.

ViT-B/32 with random weights, in float16 on CUDA. Loading it is not counted: it takes as long for ten images as for ten
million. DALI decodes on the device at its own settings ("mixed" on CUDA, two thirds by its JPEG engine), from bytes in
memory; "as scored" interpolates colours as PIL does, which scoring asks for. PIL decodes on one thread per CPU.
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.bench_kernels import PREPROCESS
from benchmarks.timing import interleave, record, seconds
from discl.decoding import CPU
from discl.progress import Meter
from discl.scoring import ScoreRequest
from discl.scoring.folder import open_folder
from discl.scoring.gpu_decoder import HARDWARE
from discl.scoring.score import StoreScoring
from discl.store import Store, StoreWriter

CLASSES = [f"class {number}" for number in range(10)]
THREADS = len(os.sched_getaffinity(0))
COMPARED = 64  # scores beside those of PIL's pixels


def score_jpegs(folder: Path, model: torch.nn.Module, config: dict, device: torch.device, small: bool) -> None:
    on_gpu = device.type == "cuda"
    count, batch, rounds = (24, 4, 2) if small else (8192, 256, 4) if on_gpu else (256, 64, 3)
    dtype = "float16" if on_gpu else "float32"
    images = photographs(min(count, 256), 64 if small else 512)
    store = filled(folder / "store", [images[number % len(images)] for number in range(count)])
    write_clip(folder / "clip", model, config)
    request = ScoreRequest("jpeg", str(folder / "clip"), device=device.type, dtype=dtype, batch=batch)
    scoring = StoreScoring(store, request, fail)
    written = open_folder(store.path, request.name, scoring.definition)
    encoded = [np.frombuffer(image, np.uint8) for image in images]
    batches = [
        [encoded[number % len(images)] for number in range(start, min(start + batch, count))]
        for start in range(0, count, batch)
    ]
    pool = ThreadPoolExecutor(THREADS)
    runs: dict[str, Callable[[], object]] = {
        "discl score": lambda: scoring.score(store.shards, Meter("score", count)),
        "DALI decode": dali(batches, device),
        "PIL decode": lambda: [list(pool.map(pil, each)) for each in batches],
    }
    if on_gpu:
        runs["DALI decode, as scored"] = dali(batches, device, jpeg_fancy_upsampling=True)
        runs["DALI decode, no JPEG engine"] = dali(batches, device, hw_decoder_load=0.0)
    for warm_up in runs.values():
        warm_up()
    rates = interleave({name: lambda run=run: count / seconds(run) for name, run in runs.items()}, rounds)
    pool.shutdown()
    record(
        "score", rates, "images/s",
        {f"discl score / {name}": ("discl score", name) for name in runs if name != "discl score"}, keep=not small,
        part="JPEG", model="ViT-B-32, random weights", dtype=dtype, batch=batch, images=count, side=512,
        kilobytes=sum(map(len, images)) / len(images) / 1000, decode_threads=THREADS,
        largest_shift=largest_shift(scoring, written, images[:COMPARED]),
    )  # fmt: skip


def fail(bad: list[tuple[str, str]]) -> None:
    if bad:
        raise SystemExit(f"an image was not scored: {bad[0]}")


def photographs(count: int, side: int) -> list[bytes]:
    """JPEGs of smooth colours with some grain, at quality 90."""

    def photograph(number: int) -> bytes:
        random, file = np.random.default_rng(number), io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        grain = smooth + random.integers(-12, 13, smooth.shape, np.int16)
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        return file.getvalue()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(photograph, range(count)))


def filled(path: Path, images: list[bytes]) -> Store:
    with StoreWriter(path, "run", shard_bytes=256_000_000) as writer:
        for number, image in enumerate(images):
            label = number % len(CLASSES)
            row = {"key": f"{number:032x}", "class_id": label, "class_name": CLASSES[label], "status": "ok"}
            writer.append(row, image, "jpg", None)
    return Store(path)


def write_clip(folder: Path, model: torch.nn.Module, config: dict) -> None:
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    settings = {"model_cfg": config, "preprocess_cfg": {**PREPROCESS, "size": config["vision_cfg"]["image_size"]}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))


def pil(encoded: np.ndarray) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB")


def dali(batches: list[list[np.ndarray]], device: torch.device, **options) -> Callable[[], None]:
    """Decodes all batches once a call."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    types: Any = import_module("nvidia.dali.types")
    where = HARDWARE if device.type == "cuda" else CPU
    source: Iterator[list[np.ndarray]] = iter(())
    pipeline = Pipeline(len(batches[0]), THREADS, device_id=0 if where is HARDWARE else None, prefetch_queue_depth=2)
    with pipeline:
        encoded = fn.external_source(source=lambda: next(source), batch=True, no_copy=True, dtype=types.UINT8)
        pipeline.set_outputs(fn.decoders.image(encoded, output_type=types.RGB, **(where.options | options)))
    pipeline.build()

    def decode() -> None:
        nonlocal source
        source = iter(batches)
        with suppress(StopIteration):
            while True:
                pipeline.run()
        pipeline.reset()

    return decode


def largest_shift(scoring: StoreScoring, written: Path, images: list[bytes]) -> float:
    """Of the written text scores, against those of the same CLIP on pixels that PIL decoded."""
    judge = scoring.judge
    vectors = judge.scorer.embed_pil([Image.open(io.BytesIO(image)) for image in images])
    labels = torch.arange(len(images)) % len(CLASSES)
    expected = (vectors * judge.texts[labels.to(judge.texts.device)]).sum(1).cpu().numpy()
    scores = pq.read_table(sorted(written.glob("*.parquet"))[0], columns=["text_score"])["text_score"]
    return float(np.abs(scores.to_numpy()[: len(images)] - expected).max())
