"""Interleaved A/B timing and the rows that record it.

Contestants take turns inside one process, so that clock changes and neighbours hit all of them alike; warm-up (and
compilation) is timed apart. A row holds p20/p50/p80, the ratio to a named peer or ceiling, device and versions.
"""

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def interleave(contestants: dict[str, Callable[[], float]], repeats: int) -> dict[str, np.ndarray]:
    """Call each contestant in turn, `repeats` rounds; each returns its own rate (per second)."""
    rates = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            rates[name].append(contestant())
    return {name: np.array(values) for name, values in rates.items()}


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def environment() -> dict:
    """Device (on CUDA its driver, clocks and power limit too), threads and the versions that decide speed."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()
    packages = ("torch", "triton", "diffusers", "open_clip_torch", "numpy")
    return {
        "kind": "cuda" if torch.cuda.is_available() else "cpu",
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        **(_gpu_facts() if torch.cuda.is_available() else {}),
    }


def record(
    benchmark: str,
    rates: dict[str, np.ndarray],
    unit: str,
    ratios: dict[str, tuple[str, str]],
    keep: bool,
    **settings,
):
    """Print one table and, with `keep`, append one JSON row to results/<benchmark>.jsonl.

    ratios: name -> (contestant, peer); with equal rounds the median of the per-round quotients, so that drift cancels,
    else the quotient of the medians.
    """
    quantiles = {name: np.percentile(values, [20, 50, 80]).tolist() for name, values in rates.items()}
    medians = {name: _ratio(rates[ours], rates[peer]) for name, (ours, peer) in ratios.items()}
    print(f"\n{benchmark}: {unit}, p20 / p50 / p80 of {len(next(iter(rates.values())))} rounds")
    for name, (low, middle, high) in quantiles.items():
        print(f"  {name:34} {low:10.2f} {middle:10.2f} {high:10.2f}")
    for name, value in medians.items():
        print(f"  {name:34} {value:10.2f}x")
    row = {
        "benchmark": benchmark,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "unit": unit,
        "p20_p50_p80": quantiles,
        "ratios": medians,
        "settings": settings,
        **environment(),
    }
    if keep:
        RESULTS.mkdir(exist_ok=True)
        with open(RESULTS / f"{benchmark}.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
    return row


def _ratio(ours: np.ndarray, peer: np.ndarray) -> float:
    return float(np.median(ours / peer) if len(ours) == len(peer) else np.median(ours) / np.median(peer))


def record_micro(benchmark: str, file: str, ours: str, peers: Sequence[str], small: bool) -> dict:
    """Run a file of pytest-benchmark tests `test_x[ours]`, `test_x[peer]`; rates are calls per second.

    A test has one of `peers` or more; a ratio above 1 means that ours is faster.
    """
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        quick = ["--benchmark-max-time=0.05", "--benchmark-min-rounds=3"] if small else []
        options = ["-q", "-p", "no:cacheprovider", "--benchmark-columns=median", f"--benchmark-json={out}"]
        if pytest.main([file, *options, "--benchmark-save-data", *quick]):
            raise SystemExit(f"{file}: a benchmark failed")
        runs = json.loads(out.read_text())["benchmarks"]
    rates = {run["name"].removeprefix("test_"): 1 / np.array(run["stats"]["data"]) for run in runs}
    stems = [name.removesuffix(f"[{ours}]") for name in rates if name.endswith(f"[{ours}]")]
    pairs = [(stem, peer) for stem in stems for peer in peers if f"{stem}[{peer}]" in rates]
    ratios = {f"{stem}: {ours} / {peer}": (f"{stem}[{ours}]", f"{stem}[{peer}]") for stem, peer in pairs}
    return record(benchmark, rates, "calls/s", ratios, keep=not small)


def _gpu_facts() -> dict:
    """Driver, CUDA, and the clocks as they are now, beside the highest that the device allows."""
    names = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")
    query = f"--query-gpu={','.join(names)}"
    values = subprocess.check_output(["nvidia-smi", query, "--format=csv,noheader", "-i", "0"], text=True)
    return {"cuda": torch.version.cuda, **dict(zip(names, map(str.strip, values.split(",")), strict=True))}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
