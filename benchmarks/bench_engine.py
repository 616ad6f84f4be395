"""Engine throughput: img2img of whole spectra, against diffusers and against a bare compiled loop.

Timed: from the first request to the last uint8 image, model loaded, nothing written; the bare loop's row and the
engine's beside it score with CLIP as well. Peers:
(a) one eager pipeline call per (image, level, seed), as the reference code does;
(b) diffusers batched per level at its best batch, eager;
(b') the same compiled, with fused QKV and channels_last;
(c) the bare loop.
With `--dtype float8`, the engine in bfloat16 as well; both are measured by the bfloat16 matmul rate.
Model, images, prompts, seeds, steps and dtype are the same. Warm-up and compilation come before the rounds, and are
reported apart.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.exported import first_image, measure_exported
from benchmarks.matmul import evaluation_flops, matmul_rate
from benchmarks.options import add_model, add_requests, model_of, settings_of, slots_of, with_defaults, workload_of
from benchmarks.peers import BareLoop, Diffusers, best_batch
from benchmarks.profile_generate import profile
from benchmarks.timing import interleave, record, seconds
from benchmarks.workload import LEVELS, Workload
from discl import Engine, Request
from discl.engine.backends import BACKENDS
from discl.engine.options import DTYPES

MATMUL = "matmul rate, all UNet"
ONE_EACH = 13  # of the spectrum's requests, how many the slowest peer is spared

RATIOS = {
    "(a) eager / one call each": ("engine, eager", "(a) diffusers, one call each"),
    "(a) compiled / one call each": ("engine, compiled", "(a) diffusers, one call each"),
    "(b) compiled / batched": ("engine, compiled", "(b) diffusers, batched"),
    "(b') compiled / batched, compiled": ("engine, compiled", "(b') diffusers, batched, compiled"),
    "(c) compiled / bare loop": ("engine, compiled, CLIP", "(c) bare loop, CLIP"),
    "UNet / matmul": ("engine, compiled", MATMUL),
    "UNet / matmul, bfloat16": ("engine, compiled, bfloat16", MATMUL),
    "float8 / bfloat16": ("engine, compiled", "engine, compiled, bfloat16"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, dtype="float32", repeats=5)
    add_requests(parser, steps=20)
    parser.add_argument("--largest", type=int, default=64, help="largest batch that peers try")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="torch-compile",
        help="of --profile; onnx: exported backends against torch; aoti: the first image of a fresh process",
    )
    parser.add_argument("--peer-mode", default="max-autotune", help="of (b')'s compilation on a CUDA device")
    parser.add_argument("--alone", action="store_true", help="no peers: the engine's share of the matmul rate")
    parser.add_argument("--profile", action="store_true", help="name the bottleneck of a whole `discl generate`")


def run(small: bool = False, **options) -> dict:
    given = with_defaults(arguments, options)
    if small:
        given.images, given.seeds, given.repeats, given.largest, given.slots = 1, 1, 2, 4, "4"
    with tempfile.TemporaryDirectory() as folder:
        measure = _profile if given.profile else MEASURES.get(given.backend, _measure)
        return measure(workload_of(given), given, Path(folder), keep=not small)


MEASURES = {"onnx": measure_exported, "tensorrt": measure_exported, "aoti": first_image}


def _profile(workload: Workload, given: argparse.Namespace, folder: Path, keep: bool) -> dict:
    model, clip = model_of(given, workload, folder), workload.write_clip(folder / "clip")
    settings = {"dtype": given.dtype, "backend": given.backend, "slots": slots_of(given), "device": given.device}
    return profile(workload, model, clip, folder, settings)


def _measure(workload: Workload, given: argparse.Namespace, folder: Path, keep: bool) -> dict:
    requests, model = sized(workload), model_of(given, workload, folder)
    settings = {
        **workload.settings,
        "dtype": given.dtype,
        "device": given.device,
        "slots": slots_of(given),
        "size": workload.size,
    }
    compiled = Engine.from_pretrained(model, backend="torch-compile", **settings)
    contestants = {"engine, compiled": engine_run(compiled, requests)}
    if given.dtype == "float8":
        half = Engine.from_pretrained(model, backend="torch-compile", **{**settings, "dtype": "bfloat16"})
        contestants["engine, compiled, bfloat16"] = engine_run(half, requests)
    warm_up, batches = warmed(contestants), {}
    if not given.alone:
        clip = str(workload.write_clip(folder / "clip"))
        peers = _peers(model, clip, settings, workload, given, requests)
        contestants, warm_up, batches = contestants | peers[0], warm_up | peers[1], peers[2]
    rates = interleave(contestants, given.repeats)
    facts = _facts(compiled, workload)
    rates[MATMUL] = np.array([facts["matmul_flops_per_second"] / facts["unet_flops_per_image"]])
    return record(
        "engine",
        rates,
        "images/s",
        {name: pair for name, pair in RATIOS.items() if rates.keys() >= set(pair)},
        keep=keep,
        **{**settings_of(given), "slots": compiled.slots, "levels": LEVELS, "requests": len(requests)},
        **facts,
        usd_per_million_images=dollars(rates, given.usd_per_hour),
        batches=batches,
        warm_up_seconds=warm_up,
    )


def _peers(
    model: Path, clip: str, settings: dict, workload: Workload, given: argparse.Namespace, requests: list[Request]
) -> tuple[dict, dict, dict]:
    """Diffusers three ways, the bare loop and the engine's other forms: contestants, their first seconds, and the
    batch sizes that peers were found best at."""
    eager = Engine.from_pretrained(model, **settings)
    scoring = Engine.from_pretrained(model, clip=clip, backend="torch-compile", **settings)
    device, dtype = eager.device, DTYPES[given.dtype]
    one = Diffusers(model, workload, device, dtype)
    best = best_batch(one, requests, given.largest)
    compiled = Diffusers(model, workload, device, dtype, batch=best, compile_mode=given.peer_mode)
    contestants = {
        "(a) diffusers, one call each": timed(one, few_of(requests)),
        "(b) diffusers, batched": timed(one.at(best), requests),
        "(b') diffusers, batched, compiled": timed(compiled, requests),
        "engine, eager": engine_run(eager, requests),
        "engine, compiled, CLIP": engine_run(scoring, requests),
    }
    warm_up = warmed(contestants)
    bare = BareLoop(scoring, workload, requests, given.largest)
    last = {"(c) bare loop, CLIP": timed(bare, requests)}
    return contestants | last, warm_up | warmed(last), {"(b)": best, "(b')": best, "(c)": bare.batches}


def warmed(contestants: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Seconds of each one's first run, compilation included."""
    return {name: seconds(contestant) for name, contestant in contestants.items()}


def _facts(engine: Engine, workload: Workload) -> dict:
    """Occupancy, the UNet's work and the device's own matmul rate, for the compiled engine."""
    evaluations = engine.stats.unet_evaluations / sum(engine.stats.samples.values())
    return {
        "unet_parameters": sum(p.numel() for p in engine.model.unet.parameters()),
        "occupancy": round(engine.stats.slot_occupancy, 4),
        "unet_flops_per_image": evaluations * evaluation_flops(engine.model, *workload.size),
        "matmul_flops_per_second": matmul_rate(engine.device, engine.dtype),
        "engine_seconds": {name: round(value, 2) for name, value in engine.stats.seconds.items()},
    }


def dollars(rates: dict[str, np.ndarray], usd_per_hour: float) -> dict[str, float]:
    """USD for a million images at each contestant's median rate."""
    return {name: usd_per_hour / 3600 / float(np.median(rate)) * 1e6 for name, rate in rates.items()}


def few_of(requests: list[Request]) -> list[Request]:
    """What peer (a) makes of them: of every level its share."""
    return requests[:: min(ONE_EACH, len(requests))]


def sized(workload: Workload) -> list[Request]:
    return [replace(request, size=workload.size) for request in workload.requests()]


def engine_run(engine: Engine, requests: list[Request]) -> Callable[[], float]:
    return lambda: len(requests) / seconds(lambda: list(engine.run(requests)))


def timed(peer: Callable, requests: list[Request]) -> Callable[[], float]:
    return lambda: len(requests) / seconds(lambda: peer(requests))
