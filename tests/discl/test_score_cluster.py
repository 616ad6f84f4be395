"""`discl score --ray` writes what one process writes, names what is bad once, outlives kills, refuses strangers."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from discl import run_record
from discl.cli import main
from discl.cluster import scoring
from discl.cluster.connection import Cluster, connected
from discl.cluster.scoring import Outcome, ScoringActor, ScoringTask
from discl.errors import RunFailed, StoreError
from discl.progress import Meter
from discl.scoring import ScoreRequest, score_store
from discl.scoring.score import StoreScoring
from discl.store import Store
from tests.discl.project import loaded, make_project

pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def working_folder(monkeypatch):
    """An actor that works in this process goes to its command's folder; here it comes back."""
    monkeypatch.chdir(".")


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_models) -> Path:
    from discl.generation import generate

    file = make_project(tmp_path_factory.mktemp("score"), tiny_models)
    generate(loaded(file, "store.format=png", "store.shard_mb=0.01"))
    assert len(Store(file.with_name("store")).shards) > 3
    return file


@pytest.fixture(scope="module")
def ray():
    """One for all: it takes seconds to start."""
    with connected(Cluster(actors=(2, 2), cores=1)) as ray:
        yield ray


def rows(folder: Path) -> dict[str, list[dict]]:
    return {file.name: pq.read_table(file).to_pylist() for file in sorted(folder.glob("*.parquet"))}


def copied(project: Path, place: Path) -> Path:
    return Path(shutil.copytree(project.with_name("store"), place))


def test_the_command_writes_what_one_process_writes(ray, project, tmp_path, tiny_models, capsys):
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
def test_what_is_scored_already_is_passed_over_and_a_killed_actor_costs_its_shard(ray, project, tmp_path, tiny_models):
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


@pytest.mark.slow
def test_errors_of_workers_are_those_of_one_process(ray, project, tmp_path, tiny_models):
    store, request = copied(project, tmp_path / "store"), ScoreRequest("x", f"{tiny_models}/clip")
    for file in (store / "embeddings").glob("*.npy"):
        np.save(file, np.zeros((len(np.load(file)), 3), np.float16))
    with pytest.raises(StoreError, match="embeddings of 3 numbers"):
        score_store(store, request, cluster=Cluster(actors=(1, 1), cores=1))


def test_a_strange_worker_scores_nothing(project, tmp_path, tiny_models):
    store = Store(copied(project, tmp_path / "store"))
    request = ScoreRequest("x", f"{tiny_models}/clip")
    here, definition = run_record.versions(), StoreScoring(store, request, print).definition["digest"]
    right = ScoringTask(store, request, definition, here, str(tmp_path))
    (store.path / "scores" / "x").mkdir(parents=True)
    for strange, reason in (
        (replace(right, versions=here | {"torch": "0.1"}), "torch .* there, 0.1 here"),
        (replace(right, definition="0" * 32), "its CLIP, classifier or real images are others"),
    ):
        assert re.search(reason, ScoringActor().score(strange, store.shards[0]).refused)
        assert not list((store.path / "scores").glob("x/*.parquet"))
    assert not ScoringActor().score(right, store.shards[0]).refused
    assert len(list((store.path / "scores").glob("x/*.parquet"))) == 1


class OneNode:
    """As much of Ray as `ScoringActors` sees; actors with these numbers are refused."""

    def __init__(self, refusing: set[int]) -> None:
        self.refusing, self.started, self.scored = refusing, 0, []
        self.calls: list[tuple] = []  # (actor, shard) by the call's number

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value):
        return value

    def wait(self, calls, num_returns, timeout):
        return calls[:1], calls[1:]

    def get(self, call):
        number, shard = self.calls[call]
        refused = number in self.refusing
        self.scored += [] if refused or shard is None else [shard]
        return Outcome("node", "strange" if refused else "", [])

    def kill(self, actor) -> None:
        pass

    def kind(self, *_, **__):
        return SimpleNamespace(remote=self.start)

    def start(self):
        number, self.started = self.started, self.started + 1
        return SimpleNamespace(score=SimpleNamespace(remote=lambda task, shard: self.call(number, shard)))

    def call(self, actor: int, shard) -> int:
        self.calls.append((actor, shard))
        return len(self.calls) - 1


@pytest.mark.parametrize("refusing", [{0}, {1}, {0, 1}])
def test_who_is_refused_leaves_the_shards_to_the_rest(project, tiny_models, monkeypatch, refusing):
    store, node = Store(project.with_name("store")), OneNode(refusing)
    monkeypatch.setattr(scoring, "as_actor", node.kind)
    task = ScoringTask(store, ScoreRequest("x", f"{tiny_models}/clip"), "", {}, "")
    actors = scoring.ScoringActors(node, Cluster(actors=(2, 2), cores=1), task, store.shards)
    if len(refusing) == 2:
        with pytest.raises(RunFailed, match="on node is refused: strange; install and copy the same on every node"):
            actors.run(print, Meter("score", 1))
        assert not node.scored
    else:
        actors.run(print, Meter("score", 1))
        assert sorted(shard.number for shard in node.scored) == [shard.number for shard in store.shards]
