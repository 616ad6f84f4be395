"""`discl score --ray` writes what one process writes, names what is bad once, outlives kills, refuses strangers."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from discl import run_record
from discl.cli import main
from discl.cluster import scoring
from discl.cluster.connection import Cluster, connected
from discl.errors import RunFailed, StoreError
from discl.scoring import ScoreRequest, score_store
from discl.store import Store
from tests.discl.project import loaded, make_project

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_models) -> Path:
    from discl.generation import generate

    file = make_project(tmp_path_factory.mktemp("score"), tiny_models)
    generate(loaded(file, "store.format=png", "store.shard_mb=0.01"))
    assert len(Store(file.with_name("store")).shards) > 3
    return file


@pytest.fixture(scope="module", autouse=True)
def ray():
    """One for all: it takes seconds to start."""
    with connected(Cluster(actors=(2, 2), cores=1)) as ray:
        yield ray


def rows(folder: Path) -> dict[str, list[dict]]:
    return {file.name: pq.read_table(file).to_pylist() for file in sorted(folder.glob("*.parquet"))}


def copied(project: Path, place: Path) -> Path:
    return Path(shutil.copytree(project.with_name("store"), place))


def test_the_command_writes_what_one_process_writes(project, tmp_path, tiny_models, capsys):
    one, many = copied(project, tmp_path / "one"), copied(project, tmp_path / "many")
    for store in (one, many):
        damaged = sorted((store / "shards").glob("*.tar"))[0]
        data = bytearray(damaged.read_bytes())
        data[600:700] = bytes(100)
        damaged.write_bytes(data)
    wishes = ["--clip", f"{tiny_models}/clip", "--name", "x", "--pixels", "--data", str(project)]
    assert main(["score", str(one), *wishes]) == 0
    assert main(["score", str(many), *wishes, "--ray", "--actors", "2", "--cores", "1"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(many / "scores" / "x")
    assert rows(many / "scores" / "x") == rows(one / "scores" / "x")
    assert (many / "scores/x/scorer.json").read_bytes() == (one / "scores/x/scorer.json").read_bytes()
    assert [line["path"] for line in bad(many)] == [line["path"] for line in bad(one)] and len(bad(many)) == 1


def bad(store: Path) -> list[dict]:
    return [json.loads(line) for line in (store / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_what_is_scored_already_is_passed_over_and_a_killed_actor_costs_its_shard(project, tmp_path, tiny_models):
    store, request = copied(project, tmp_path / "store"), ScoreRequest("x", f"{tiny_models}/clip", pixels=True)
    whole = rows(score_store(store, request))
    files = sorted((store / "scores/x").glob("*.parquet"))
    kept = files[0].stat().st_mtime_ns
    for file in files[1:]:
        file.unlink()
    killed = []

    def kill_once(event) -> None:
        actors = [each for each in psutil.Process().children(recursive=True) if "ray::Scoring" in title(each)]
        if actors and not killed and event["event"] == "progress" and event["done"] > len(Store(store)) / 4:
            killed.append(actors[0].pid)
            os.kill(actors[0].pid, signal.SIGKILL)

    assert rows(score_store(store, request, kill_once, Cluster(actors=(1, 1), cores=1))) == whole
    assert killed and files[0].stat().st_mtime_ns == kept


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_errors_of_workers_are_those_of_one_process(project, tmp_path, tiny_models, monkeypatch):
    store, request = copied(project, tmp_path / "store"), ScoreRequest("x", f"{tiny_models}/clip")
    for file in (store / "embeddings").glob("*.npy"):
        np.save(file, np.zeros((len(np.load(file)), 3), np.float16))
    cluster = Cluster(actors=(1, 1), cores=1)
    with pytest.raises(StoreError, match="embeddings of 3 numbers"):
        score_store(store, request, cluster=cluster)
    monkeypatch.setattr(scoring, "versions", lambda: run_record.versions() | {"torch": "0.1"})
    with pytest.raises(RunFailed, match=r"is refused: torch .* there, 0.1 here"):
        score_store(store, replace(request, pixels=True), cluster=cluster)
