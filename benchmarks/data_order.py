"""Contestants of the data order: ids per second, and epochs started per second, over an index of many rows."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from discl._C import Order
from discl.sampler import CurriculumSampler

IDS, TORCH_ROWS = 1 << 20, 1 << 24
Rate = Callable[[], float]


def draws(rows: int) -> dict[str, Rate]:
    """Million ids/s out of `rows`: half of the epoch from most of them, the rest from two smaller pools."""
    cuts = [0, rows * 8 // 10, rows * 9 // 10, rows]
    pools = [(range(first, last), IDS // share) for first, last, share in zip(cuts, cuts[1:], (2, 4, 4), strict=False)]
    mixed = np.random.default_rng(0).permutation(rows).astype(np.int32)
    weights = np.random.default_rng(1).random(rows, dtype=np.float32)
    fewer = min(rows, TORCH_ROWS)
    weighted = Order([(range(fewer), IDS, weights)], 0, 0)
    peer = torch.utils.data.WeightedRandomSampler(torch.from_numpy(weights[:fewer]), IDS)
    orders = {
        "discl": Order(pools, 0, 0),
        "discl, rows in no order": Order([(mixed, IDS)], 0, 0),
        "discl, weighted": Order([(range(rows), IDS, weights)], 0, 0),
    }
    return {
        **{name: partial(timed, partial(order.ids, 0, IDS)) for name, order in orders.items()},
        "numpy": partial(timed, partial(rebuilt, pools)),
        "discl, weighted 2^24": partial(timed, partial(weighted.ids, 0, IDS)),
        "torch WeightedRandomSampler": partial(timed, lambda: np.fromiter(peer, np.int64, IDS)),
        "20 M a second": lambda: 20.0,
    }


def timed(draw: Callable[[], np.ndarray]) -> float:
    """Million ids per second of this thread: a busy machine does not count."""
    begin = time.thread_time()
    ids = draw()
    return len(ids) / (time.thread_time() - begin) / 1e6


def rebuilt(pools) -> np.ndarray:
    """What a loader does that makes an epoch's list: choose from each pool, join, shuffle."""
    rng = np.random.default_rng(1)
    chosen = [rng.permutation(np.arange(ids.start, ids.stop))[:quota] for ids, quota in pools]
    return rng.permutation(np.concatenate(chosen))


def index(rows: int) -> SimpleNamespace:
    """A dataset's columns: a tenth real (a hundredth of it tail), the rest synthetic at four levels, 100 classes."""
    real, classes, levels = rows // 10, 100, np.array([0, 10, 30, 50], np.int16)
    made = np.arange(rows - real)
    labels = np.concatenate([np.arange(real) * classes // real, made * 4 * classes // len(made) % classes])
    return SimpleNamespace(
        n_real=real,
        class_names=tuple(map(str, range(classes))),
        labels=labels.astype(np.int32),
        levels=np.concatenate([np.full(real, 100, np.int16), levels[made * 4 // len(made)]]),
        is_synth=np.arange(rows) >= real,
        tail=np.arange(rows) < real // 100,
    )


def sampler(data: SimpleNamespace, weights: np.ndarray | None = None) -> CurriculumSampler:
    keys = {"policy": "all-level", "epochs": 10**6, "curriculum_epochs": 10**6, "tail_share": 0.9, "level": None}
    config = SimpleNamespace(**keys, nontail_share=0.01, synthetic_scale=800.0)
    source = CurriculumSampler(data, config, 256, 0)
    source.set_weights(weights)
    return source


def starts(rows: int) -> dict[str, Rate]:
    """Epochs started per second: from the end of one to the first batch of the next."""
    data = index(rows)
    weights = np.random.default_rng(1).random(rows, dtype=np.float32)
    samplers = {"discl": sampler(data), "discl, weighted": sampler(data, weights)}
    for source in samplers.values():
        source.rows(0, 0)
    return {
        **{name: lambda source=source: 1 / start(source) for name, source in samplers.items()},
        "numpy": lambda: 1 / reference_start(data),
        "one a second": lambda: 1.0,
    }


def start(source: CurriculumSampler) -> float:
    """Seconds."""
    source.epoch += 1
    begin = time.perf_counter()
    rows = source.rows(source.epoch, 0)
    seconds = time.perf_counter() - begin
    assert len(rows) == 256
    return seconds


def reference_start(data: SimpleNamespace) -> float:
    """Seconds for the same pools as lists: masks over all rows, choices, one shuffle."""
    rng = np.random.default_rng(0)
    begin = time.perf_counter()
    nontail = np.flatnonzero(~data.is_synth & ~data.tail)
    synthetic = np.flatnonzero(data.is_synth & np.isin(data.levels, [0, 10, 30, 50]))
    tail = np.flatnonzero(data.tail)
    chosen = [rng.permutation(nontail)[: len(nontail) // 100], tail, rng.permutation(synthetic)[: 800 * len(tail)]]
    rng.permutation(np.concatenate(chosen))
    return time.perf_counter() - begin


def memory(rows: int) -> dict[str, float]:
    """MB that the process holds at most beyond index and weights, while an epoch starts."""
    data = index(rows)
    weights = np.random.default_rng(1).random(rows, dtype=np.float32)
    sources = {"discl": sampler(data), "discl, weighted": sampler(data, weights)}
    for source in sources.values():
        source.plan(0)  # the index of groups; nothing is drawn yet
    peaks = {name: peak(partial(start, source)) for name, source in sources.items()}
    return peaks | {"numpy": peak(partial(reference_start, data))}


def peak(work: Callable[[], object]) -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = resident("VmRSS")
    work()
    return max(resident("VmHWM") - before, 1.0)


def resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000
