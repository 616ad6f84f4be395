"""Killed anywhere and started again, `discl generate` ends with the store of an uninterrupted run."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from discl.cli import main
from discl.store import Store, verify
from tests.discl.cli_process import finish, start
from tests.discl.project import contents, make_project

WISHES = [
    "--set",
    "spectrum.seeds=8",
    "--set",
    "spectrum.levels=[0, 25, 50, 75]",
    "--set",
    "store.shard_mb=0.05",
]
PLANNED = 5 * 8 * 4
HALF = [*WISHES, "--set", "spectrum.seeds=4"]


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


def wait_until(reached: Callable[[], bool], process, seconds: float = 120) -> None:
    """Wait for an effect of the process, or its end."""
    end = time.monotonic() + seconds
    while process.is_alive() and not reached():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def kill_at_random(argv: list, file: Path, store: Path, random: np.random.Generator, longest: float) -> bool:
    """Start, wait a random time, kill. False if the run had finished before.

    The time runs from the moment at which samples begin to be made, or (one in four) from an earlier one, at
    which what the last kill left is recovered and the models are loaded.
    """
    lock, runs = store / ".writer.lock", store / "runs"
    lock.unlink(missing_ok=True)
    before, early = len(list(runs.glob("*.json"))), random.random() < 0.25
    process = start(argv, file.with_name("stderr.txt"))
    wait_until(lambda: lock.exists() if early else len(list(runs.glob("*.json"))) > before, process)
    time.sleep(random.uniform(0, longest))
    process.kill()
    return finish(process) == -signal.SIGKILL


def uninterrupted(file: Path, wishes: list[str], name: str = "whole") -> tuple[Store, float]:
    """The store, and the seconds in which its samples were made."""
    store = file.with_name(name)
    assert finish(start(["generate", file, *wishes, "--out", store], file.with_name("stderr.txt"))) == 0
    (run,) = (store / "runs").glob("*.json")
    return Store(store), json.loads(run.read_text())["seconds"]["generate"]


def written(store: Path) -> int:
    """Bytes of images in the store, sealed or not."""
    return sum(path.stat().st_size for path in (store / "shards").glob("*"))


@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_killed_run_continues_to_the_same_bytes(file, kills, seed):
    whole, seconds = uninterrupted(file, HALF)
    assert len(whole) == PLANNED // 2
    killed_and_continued(file, HALF, whole, seconds, kills, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3])
def test_retries_continue_to_the_same_attempts(file, seed):
    """With a threshold that half of the first attempts miss, what is made depends on what the store remembers."""
    scores = uninterrupted(file, WISHES, "first")[0].table["text_score"].to_numpy()
    wishes = [*WISHES, "--set", "spectrum.retries=2", "--set", f"score.threshold={np.median(scores)}"]
    whole, seconds = uninterrupted(file, wishes)
    assert 1.2 * PLANNED < len(whole) < 2.8 * PLANNED
    killed_and_continued(file, wishes, whole, seconds, 6, seed)
    assert Store(file.with_name("killed")).selection("default") == whole.selection("default")


def killed_and_continued(file: Path, wishes: list[str], whole: Store, seconds: float, kills: int, seed: int) -> None:
    store, random = file.with_name("killed"), np.random.default_rng(seed)
    argv = ["generate", file, *wishes, "--out", store]
    sizes, longest = [], 2 * seconds / (kills + 1)
    while len(sizes) < kills or max(sizes) < 10_000:  # at least one kill in the middle of the work
        if kill_at_random(argv, file, store, random, longest):
            sizes.append(written(store))
            longest *= 1.05  # a machine that has become slower gets there, too
            assert not (store / "manifest").is_dir() or verify(store) == []
        else:
            shutil.rmtree(store)
    errors = file.with_name("stderr.txt")
    assert finish(start(argv, errors)) == 0, errors.read_text()
    assert contents(Store(store)) == contents(whole), f"after kills with {sizes} bytes written"
    assert main(["store", "verify", str(store)]) == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_seals_what_is_written_and_exits_with_its_code(file, signum, code):
    store, errors = file.with_name("store"), file.with_name("stderr.txt")
    process = start(["generate", file, *WISHES], errors)
    wait_until((store / "manifest" / "000000.json").exists, process)
    os.kill(process.pid, signum)
    begin = time.monotonic()
    os.kill(process.pid, signum)  # an impatient second one changes nothing
    assert finish(process, 60) == code
    assert time.monotonic() - begin < 25
    assert errors.read_text().splitlines()[-1].startswith("discl: stopped by SIG")
    assert "Traceback" not in errors.read_text()
    assert 0 < len(Store(store)) < PLANNED
    assert verify(store) == []


def test_a_full_disk_is_one_line_and_the_run_continues_after_it(file):
    store, errors = file.with_name("store"), file.with_name("stderr.txt")
    argv = ["generate", file, "--set", "store.format=png"]
    assert finish(start(argv, errors, file_bytes=20_000)) == 2
    lines = errors.read_text().splitlines()
    assert all(line.startswith("discl:") for line in lines if not line.startswith(("load model ", "generate ")))
    assert "File too large" in lines[-1]
    assert finish(start(argv, errors)) == 0
    assert len(Store(store)) == 5 * 2 * 2
    assert verify(store) == []
