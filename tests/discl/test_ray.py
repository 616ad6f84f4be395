"""Workers on Ray make what one process makes, to the byte, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from discl.cli import main
from discl.cluster.connection import Cluster, connected
from discl.cpu_threads import cpu_threads
from discl.generation import generate
from discl.store import Store, verify
from discl.store.merge import merge
from tests.discl.light_engine import LightEngine
from tests.discl.project import FakeEngine, contents, fake, loaded, make_project, no_engine, without_score

pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]


REJECTING = ["--set", "engine.early_rejection=true", "--set", "engine.false_reject_limit=0.5"]


@pytest.mark.parametrize("rejecting", [[], pytest.param(REJECTING, marks=pytest.mark.slow)], ids=["plain", "rejecting"])
def test_the_command_makes_what_one_process_makes(tmp_path, tiny_models, capsys, rejecting):
    file = make_project(tmp_path, tiny_models)
    (tmp_path / "data" / "red fox" / "3.png").write_bytes(b"no picture")
    wishes = ["--set", f"spectrum.seeds={12 if rejecting else 4}", "--set", "hard.few_below=5"]
    wishes += ["--set", "store.format=png", *rejecting]
    rayed = ["--out", str(tmp_path / "rayed"), "--ray", "--actors", "2", "--cores", "1"]
    with cpu_threads(3):  # workers compute with as many, whatever cores they have
        assert main(["generate", str(file), *wishes, "--out", str(tmp_path / "whole")]) == 0
        assert main(["generate", str(file), *wishes, *rayed]) == 0
    whole, rayed = Store(tmp_path / "whole"), Store(tmp_path / "rayed")
    assert len(whole) >= 5 * 2 * 4
    assert bool(list(whole.path.glob("rejection/*.json"))) == bool(rejecting)
    assert contents(rayed) == contents(whole)
    assert rayed.selection("default") == whole.selection("default")
    assert quarantined(rayed) == quarantined(whole) and len(quarantined(whole)) == 1
    assert verify(rayed.path) == []
    assert not (rayed.path / "workers").exists()
    capsys.readouterr()
    assert main(["generate", str(file), *wishes, "--out", str(tmp_path / "rayed"), "--ray"]) == 0, (
        "again: nothing to do"
    )


def test_holes_are_filled_in_rounds_as_one_process_does(tmp_path, tiny_models, fake_weights):
    """Also by a cluster that comes after a plain run, and by a plain run after a cluster."""
    file = make_project(tmp_path, tiny_models)
    wishes = ["spectrum.fill=3", "spectrum.fill_seeds=5", "spectrum.retries=1", "score.threshold=0.4"]
    cluster = Cluster(actors=(2, 2), cores=1)
    whole = generate(loaded(file, *wishes, f"store.path={tmp_path / 'whole'}"), make=FakeEngine)
    fake(file, "score.threshold=0.4", f"store.path={tmp_path / 'later'}")
    with connected(cluster):
        rayed = generate(loaded(file, *wishes), make=FakeEngine, cluster=cluster)
        later = generate(loaded(file, *wishes, f"store.path={tmp_path / 'later'}"), make=FakeEngine, cluster=cluster)
    assert contents(rayed) == contents(whole) == contents(later)
    assert len(whole) > 10 * 3 and verify(rayed.path) == verify(later.path) == []
    fake(file, *wishes, make=no_engine)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_wrong_address_is_one_line(tmp_path, tiny_models, capfd, address):
    file = make_project(tmp_path, tiny_models)
    assert main(["generate", str(file), "--ray", address]) == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("discl: "))
    assert line.startswith(f"discl: --ray {address}: ")
    assert not (tmp_path / "store").exists(), "known before anything is planned"


@pytest.mark.parametrize("flag", ["--actors", "--cores"])
def test_flags_of_actors_without_ray_are_refused(tmp_path, tiny_models, capfd, flag):
    file = make_project(tmp_path, tiny_models)
    for command in (["generate", str(file)], ["score", str(tmp_path / "data")]):
        assert main([*command, flag, "2"]) == 2
        assert f"{flag} without --ray" in capfd.readouterr().err


def test_a_signal_seals_and_the_same_command_goes_on(tmp_path, tiny_models):
    file, store = make_project(tmp_path, tiny_models), tmp_path / "store"
    command = [sys.executable, "-m", "discl", "generate", str(file), "--set", "spectrum.seeds=40", "--ray"]
    with open(tmp_path / "stderr.txt", "ab") as log:
        driver = subprocess.Popen([*command, "--actors", "1", "--cores", "1"], stderr=log)
    while not any(path.stat().st_size for path in store.glob("workers/*/shards/*.tar.tmp")):
        assert driver.poll() is None, (tmp_path / "stderr.txt").read_text()
        time.sleep(0.05)
    driver.terminate()
    assert driver.wait(25) == 143, (tmp_path / "stderr.txt").read_text()
    assert "stopped by SIGTERM" in (tmp_path / "stderr.txt").read_text()
    assert 0 < len(Store(store)) < 5 * 2 * 40
    assert verify(store) == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kills", "seed"), [(5, 0), pytest.param(30, 1, marks=pytest.mark.slow)])
def test_killed_actors_and_drivers(tmp_path, tiny_models, kills, seed):
    file = without_score(make_project(tmp_path, tiny_models))
    wishes = ("spectrum.seeds=25", "spectrum.levels=[0, 25, 50, 75]")
    text = file.read_text().replace("seeds = 2", "seeds = 25").replace("[0, 50]", "[0, 25, 50, 75]")
    file.write_text(text)
    whole = contents(generate(loaded(file, *wishes), make=LightEngine))
    assert len(whole) == 5 * 25 * 4
    parts = [
        generate(loaded(file, f"store.path={tmp_path / f'part{i}'}"), part=(i, 3), make=LightEngine) for i in range(3)
    ]
    assert contents(merge([part.path for part in parts], tmp_path / "merged", 10**7)) == whole

    random, store = np.random.default_rng(seed), tmp_path / "killed"
    killed = {"actor": 0, "driver": 0}
    while sum(killed.values()) < kills or not all(killed.values()):
        driver = drive(file, store, tmp_path / "stderr.txt")
        try:
            while driver.poll() is None and sum(killed.values()) < kills + 1:
                if not (actors := actors_of(driver)):
                    time.sleep(0.02)
                    continue
                time.sleep(random.uniform(0, 0.6))
                victim = "driver" if random.random() < 0.4 else "actor"
                pid = driver.pid if victim == "driver" else random.choice(actors).pid
                number = signal.SIGTERM if victim == "actor" and random.random() < 0.3 else signal.SIGKILL
                killed[victim] += kill(int(pid), number)
        finally:
            stop(driver)
    print(f"killed {killed}")
    final = drive(file, store, tmp_path / "stderr.txt")
    assert final.wait(300) == 0, (tmp_path / "stderr.txt").read_text()[-3000:]
    assert contents(Store(store)) == whole
    assert verify(store) == []


def quarantined(store: Store) -> list[str]:
    return (store.path / "quarantine.jsonl").read_text().splitlines()


def drive(file: Path, store: Path, errors: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.discl.light_engine", str(file), str(store), "4"]
    with open(errors, "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)})


def actors_of(driver: subprocess.Popen) -> list[psutil.Process]:
    try:
        return [each for each in psutil.Process(driver.pid).children(recursive=True) if "ray::Actor" in name(each)]
    except psutil.NoSuchProcess:
        return []


def name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def stop(driver: subprocess.Popen) -> None:
    """And whatever it started, should it hang."""
    if driver.poll() is None:
        driver.send_signal(signal.SIGTERM)
        driver.wait(60)
