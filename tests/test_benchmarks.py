"""Every benchmark script runs at small size and leaves no row behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("accepted", "engine", "plan", "ray", "rejection", "start")
]


@pytest.mark.parametrize("name", ["data", "kernels", "order", "score", "store", "train", "levers", *SLOW])
def test_a_script_runs_small(name):
    before = {file: file.read_bytes() for file in RESULTS.glob("*.jsonl")}
    command = [sys.executable, "-m", "benchmarks", name, "--small"]
    # pytest-benchmark, which some scripts run on, measures nothing where it believes itself beside other tests.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{name}: " in done.stdout and "x\n" in done.stdout
    assert {file: file.read_bytes() for file in RESULTS.glob("*.jsonl")} == before


@pytest.mark.parametrize(("named", "option"), [([], "--small"), (["rejection"], "--traces")])
def test_help_shows_the_options_of_what_is_named(named, option):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *named, "--help"], capture_output=True, text=True, cwd=ROOT
    )  # fmt: skip
    assert done.returncode == 0 and option in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("backend", "ratio"), [("onnx", "onnx / torch-compile"), ("aoti", "first image: aoti / compile, warm")]
)
def test_exported_backends_are_measured_beside_torch(backend, ratio):
    command = [sys.executable, "-m", "benchmarks", "engine", "--model", "demo", "--backend", backend, "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{re.escape(ratio)} +\d+\.\d+x", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["engine", "--model", "small-refiner", "--dtype", "float8"],
        ["accepted", "--model", "small-refiner", "--usd-per-hour", "3"],
    ],
    ids=" ".join,
)
def test_what_a_gpu_row_runs_works_small_on_a_cpu(options):
    command = [sys.executable, "-m", "benchmarks", *options, "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ratio = {"engine": "float8 / bfloat16", "accepted": "few-step, rejecting / (a)"}[options[0]]
    assert re.search(rf"{re.escape(ratio)} +\d+\.\d+x", done.stdout)


def test_the_profile_names_the_bottleneck():
    command = [sys.executable, "-m", "benchmarks", "engine", "--small", "--profile", "--backend", "torch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("bottleneck: "))
    shares = re.findall(r"(UNet|VAE|CLIP|encode|write|feed) (\d+)%", line)
    assert len(shares) == 6 and sum(int(share) for _, share in shares) <= 103
    assert line.startswith(f"bottleneck: {max(shares, key=lambda pair: int(pair[1]))[0]} (")


def test_the_readme_shows_the_newest_rows():
    readme = (ROOT / "README.md").read_text()
    assert table.MARKED.search(readme)
    assert readme == table.filled(readme), "run python -m benchmarks.table"
