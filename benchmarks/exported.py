"""Exported backends against torch: images a second of the whole engine, and seconds to a fresh process's first image.

The exports are made before, and their time is in the row. Levels, requests and model are those of the engine benchmark;
every contestant decodes and scores with CLIP.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.options import model_of, settings_of, slots_of
from benchmarks.timing import interleave, record
from benchmarks.workload import Workload
from discl import Engine
from discl.engine.backends import EXPORTED
from discl.engine.backends.here import findings
from discl.engine.export.write import export_model
from discl.engine.options import find_device

FIRST = """
import sys, time
begin = time.perf_counter()
from discl import Engine, Request
from PIL import Image
model, clip, backend, exported, cache, device, dtype, width, height = sys.argv[1:]
size = int(width), int(height)
options = {"exported": exported} if exported else {"cache": cache}
with Engine.from_pretrained(
    model, clip=clip, backend=backend, slots=1, steps=4, device=device, dtype=dtype, **options
) as engine:
    (sample,) = engine.run([Request(Image.new("RGB", size, "gray"), "a cat", 0, 1, size=size)])
print("seconds", time.perf_counter() - begin)
"""


def measure_exported(workload: Workload, given: argparse.Namespace, folder: Path, keep: bool) -> dict:
    """torch eager, torch-compile and every exported backend that this device has, taking turns."""
    from benchmarks.bench_engine import engine_run, sized, warmed

    model, clip = _written(workload, given, folder)
    settings = {**workload.settings, "dtype": given.dtype, "device": given.device, "clip": clip}
    slots = slots_of(given)
    if slots == "auto":
        slots = Engine.from_pretrained(model, size=workload.size, **settings).slots
    settings["slots"] = slots
    found = [finding for finding in findings(find_device(given.device)) if finding.name in EXPORTED]
    backends = [finding.name for finding in found if finding.works]
    for finding in found:
        if not finding.works:
            print(f"engine: {finding.name}: not run, {finding.text}")
    spent = {name: _export(name, model, clip, workload, given, folder / name, slots) for name in backends}
    folders = {"torch": None, "torch-compile": None, **{name: str(folder / name) for name in backends}}
    engines = {
        name: Engine.from_pretrained(model, backend=name, exported=exported, **settings)
        for name, exported in folders.items()
    }
    contestants = {name: engine_run(engine, sized(workload)) for name, engine in engines.items()}
    warm_up = warmed(contestants)
    peers = [(ours, peer) for ours in backends for peer in ("torch", "torch-compile")]
    return record(
        "engine",
        interleave(contestants, given.repeats),
        "images/s",
        {f"{ours} / {peer}": (ours, peer) for ours, peer in peers},
        keep=keep,
        **{**settings_of(given), "slots": slots},
        export_seconds=spent,
        warm_up_seconds=warm_up,
    )


def first_image(workload: Workload, given: argparse.Namespace, folder: Path, keep: bool) -> dict:
    """Fresh processes: an AOTI package, and torch-compile with an empty and with a filled cache of its own."""
    model, clip = _written(workload, given, folder)
    spent = _export("aoti", model, clip, workload, given, folder / "aoti")
    size = tuple(map(str, workload.size))
    common = (given.device, given.dtype, *size)

    def start(backend: str, exported: str, cache: Path) -> float:
        with tempfile.TemporaryDirectory() as inductor:
            command = [sys.executable, "-c", FIRST, str(model), clip, backend, exported, str(cache), *common]
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": inductor}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return 1 / float(done.stdout.split()[-1])

    def cold() -> float:
        with tempfile.TemporaryDirectory() as cache:
            return start("torch-compile", "", Path(cache))

    begin = perf_counter()
    start("torch-compile", "", folder / "cache")
    filled = perf_counter() - begin
    contestants = {
        "aoti": lambda: start("aoti", str(folder / "aoti"), folder),
        "compile, cold": cold,
        "compile, warm": lambda: start("torch-compile", "", folder / "cache"),
    }
    return record(
        "engine",
        {name: np.array(values) for name, values in interleave(contestants, min(given.repeats, 5)).items()},
        "first images/s",
        {f"first image: aoti / {peer}": ("aoti", peer) for peer in ("compile, cold", "compile, warm")},
        keep=keep,
        **settings_of(given),
        export_seconds={"aoti": spent},
        warm_up_seconds={"compile, filling the cache": filled},
    )


def _written(workload: Workload, given: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    return model_of(given, workload, folder), str(workload.write_clip(folder / "clip"))


def _export(
    kind: str, model: Path, clip: str, workload: Workload, given: argparse.Namespace, out: Path, slots: int = 1
) -> float:
    begin = perf_counter()
    options = {"sizes": [workload.size], "dtype": given.dtype, "device": given.device, "slots": slots}
    export_model(kind, str(model), out, clip, **options)
    torch._dynamo.reset()
    return perf_counter() - begin
