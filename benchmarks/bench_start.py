"""Time to the first image of a fresh process: eager, compiled with nothing cached, and compiled with a warm `cache`.

From the start of the Python process to the first sample, on a node that has nothing but the model, and for `warm` the
cache folder that another process has filled. Slots are fixed, so that nothing is profiled.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.options import add_model, model_of, settings_of, size_of, with_defaults
from benchmarks.timing import interleave, record, seconds
from benchmarks.workload import Workload

FIRST_IMAGE = """
import sys
from benchmarks.bench_engine import sized
from benchmarks.workload import Workload
from discl import Engine

model, clip, dtype, backend, cache, name, width, height = sys.argv[1:]
workload = Workload(name, 20, 7.5, (int(width), int(height)), 1, 1)
options = {"dtype": dtype, "backend": backend, "cache": cache or None, "slots": 8, "size": workload.size}
with Engine.from_pretrained(model, clip=clip, **workload.settings, **options) as engine:
    samples = engine.run(sized(workload))
    print(next(samples).status, flush=True)
    for _ in samples:
        pass
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, dtype="float32", repeats=3)


def run(small: bool = False, **options) -> dict:
    given = with_defaults(arguments, options)
    if small:
        given.repeats = 1
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Workload(given.model, 20, 7.5, size_of(given), 1, 1), given, Path(folder), keep=not small)


def _measure(workload: Workload, given: argparse.Namespace, folder: Path, keep: bool) -> dict:
    model, clip = model_of(given, workload, folder), workload.write_clip(folder / "clip")
    process = lambda backend, cache: _process(folder, workload, model, clip, given.dtype, backend, cache)  # noqa: E731
    process("torch-compile", str(folder / "cache"))()  # fills it
    contestants = {
        "eager": process("torch", ""),
        "compiled, cold": process("torch-compile", ""),
        "compiled, warm": process("torch-compile", str(folder / "cache")),
    }
    return record(
        "start",
        interleave(contestants, given.repeats),
        "first images/s",
        {"warm / cold": ("compiled, warm", "compiled, cold"), "warm / eager": ("compiled, warm", "eager")},
        keep=keep,
        **settings_of(given),
        cache_megabytes=sum(file.stat().st_size for file in (folder / "cache").rglob("*.zip")) / 1e6,
    )


def _process(
    folder: Path, workload: Workload, model: Path, clip: Path, dtype: str, backend: str, cache: str
) -> Callable[[], float]:
    """A process on a node of its own: no compiled code but that of `cache`. Returns first images a second."""
    arguments = [str(model), str(clip), dtype, backend, cache, workload.model, *map(str, workload.size)]

    def rate() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as node:
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": node, "TRITON_CACHE_DIR": node}
            command = [sys.executable, "-c", FIRST_IMAGE, *arguments]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
                lines: list[str] = []
                elapsed = seconds(lambda: lines.append(child.stdout.readline()))
                child.stdout.read()
            if lines != ["ok\n"] or child.returncode:
                raise RuntimeError(f"no first image: {lines}, exit {child.returncode}")
        return 1 / elapsed

    return rate
