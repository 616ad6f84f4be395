"""Accepted images an hour, everything on: few steps and early rejection against one eager diffusers call per image.

What is accepted and given up, and when, is replayed from a trace of the demo's trained model (`benchmarks.replay`):
random weights cost what trained ones cost and make nothing that a judge accepts. Peer (a) makes every image in all
steps and throws the others away, as the reference code does. With `--usd-per-hour`, dollars for a million accepted.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.bench_engine import dollars, few_of, sized
from benchmarks.options import add_model, add_requests, model_of, settings_of, slots_of, with_defaults, workload_of
from benchmarks.peers import Diffusers
from benchmarks.replay import TRACE, Replay, made_up
from benchmarks.timing import interleave, record, seconds
from benchmarks.workload import LEVELS, Workload
from discl import Engine, Request
from discl.engine.options import DTYPES

HOUR = 3600


def arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, dtype="bfloat16", repeats=5)
    add_requests(parser, steps=50)
    parser.add_argument("--few", type=int, default=8, help="steps of the few-step mode (DPM++ 2M)")


def run(small: bool = False, **options) -> dict:
    given = with_defaults(arguments, options)
    if small:
        given.images, given.seeds, given.repeats, given.slots, given.steps, given.few = 2, 2, 2, "4", 10, 4
    with tempfile.TemporaryDirectory() as folder:
        return _measure(workload_of(given), given, Path(folder), keep=not small)


def _measure(workload: Workload, given: argparse.Namespace, folder: Path, keep: bool) -> dict:
    dtype, requests = DTYPES[given.dtype], sized(workload)
    model, clip = str(model_of(given, workload, folder)), str(workload.write_clip(folder / "clip"))
    engines = {
        name: _engine(model, clip, workload, given, options)
        for name, options in {"exact": {}, "few-step": {"steps": given.few, "mode": "few-step"}}.items()
    }
    replay = Replay(engines["exact"], requests, TRACE if keep else made_up(folder / "trace.npz"))
    peer, few = Diffusers(Path(model), workload, engines["exact"].device, dtype), few_of(requests)
    contestants = {
        "(a) diffusers, one call each": _peer(peer, few, replay),
        "exact": _engine_run(engines["exact"], requests, replay, rejecting=False),
        "exact, rejecting": _engine_run(engines["exact"], requests, replay, rejecting=True),
        "few-step": _engine_run(engines["few-step"], requests, replay, rejecting=False),
        "few-step, rejecting": _engine_run(engines["few-step"], requests, replay, rejecting=True),
    }
    warm_up = {name: seconds(contestant) for name, contestant in contestants.items()}
    rates = interleave(contestants, given.repeats)
    return record(
        "accepted",
        rates,
        "accepted images/hour",
        {f"{name} / (a)": (name, "(a) diffusers, one call each") for name in contestants if "(a)" not in name},
        keep=keep,
        **{**settings_of(given), "slots": {name: engine.slots for name, engine in engines.items()}, "levels": LEVELS},
        requests=len(requests),
        accepted=float(np.mean(list(replay.accepted.values()))),
        usd_per_million_accepted=dollars({name: rate / HOUR for name, rate in rates.items()}, given.usd_per_hour),
        warm_up_seconds=warm_up,
    )


def _engine(model: str, clip: str, workload: Workload, given: argparse.Namespace, options: dict) -> Engine:
    settings = workload.settings | ({"solver": "dpmpp-2m", **options} if options else {})
    settings |= {"dtype": given.dtype, "device": given.device, "slots": slots_of(given), "size": workload.size}
    return Engine.from_pretrained(model, clip=clip, backend="torch-compile", **settings)


def _engine_run(engine: Engine, requests: list[Request], replay: Replay, rejecting: bool) -> Callable[[], float]:
    """Accepted images an hour: those that ran to their end and that the trace accepts."""

    def rate() -> float:
        engine.reject_by(replay if rejecting else None)
        samples: list = []
        elapsed = seconds(lambda: samples.extend(engine.run(requests)))
        kept = [replay.accepts(sample.request) for sample in samples if sample.status == "ok"]
        return HOUR * sum(kept) / elapsed

    return rate


def _peer(peer: Diffusers, few: list[Request], replay: Replay) -> Callable[[], float]:
    """Accepted images an hour at the trace's share of accepted ones: the few that the peer makes do not decide it."""
    share = float(np.mean(list(replay.accepted.values())))
    return lambda: HOUR * share * len(few) / seconds(lambda: peer(few))
