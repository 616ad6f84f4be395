"""Workers and their coordinator in one process, without Ray: a node whose disk is full, one without a GPU."""

import errno
from types import SimpleNamespace

import pytest

from discl.cluster.connection import Cluster, gpus_per_worker, room
from discl.cluster.coordinator import Coordinator
from discl.cluster.messages import Assignment, Orders
from discl.cluster.worker import QUEUED, Worker
from discl.data import load_data
from discl.errors import ConfigError
from discl.generation import generate
from discl.hard import select_hard
from discl.plan import make_plan
from discl.progress import Meter, ignore
from discl.quarantine import Quarantine
from discl.recipe import make_recipe
from discl.run_record import versions
from discl.store import StoreWriter, shard
from discl.store.reader import Store
from tests.discl.light_engine import LightEngine
from tests.discl.project import contents, loaded, make_project, without_score


def engine(config, slots):
    return LightEngine(config, slots, 0.0)


def drive(coordinator: Coordinator, given: Assignment, count: int) -> None:
    """So many workers, side by side, until every block is done; who fails is not replaced."""
    members = [coordinator.join() for _ in range(count)]
    workers = {member.name: Worker(given, member.folder, engine) for member in members}
    for member in members:
        assert coordinator.greet(member, workers[member.name].hello(), versions())
    wants = dict.fromkeys(workers, QUEUED)
    while not coordinator.leases.finished:
        for member in [member for member in members if member.state == "working"]:
            report = workers[member.name].exchange(coordinator.orders(member, wants[member.name]))
            if report.failed:
                coordinator.lost(member, "failed", report.failed)
            else:
                coordinator.take(member, report)
                wants[member.name] = report.wants
    for member in [member for member in members if member.state == "working"]:
        while not workers[member.name].exchange(Orders(stop=True)).stopped:
            pass
        coordinator.lost(member, "stopped", "")


@pytest.fixture
def project(tmp_path, tiny_models):
    return without_score(make_project(tmp_path, tiny_models))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_on_one_node_costs_that_worker_alone(project, tmp_path, monkeypatch, number):
    wishes = ("spectrum.seeds=20", "store.format=png")
    config = loaded(project, *wishes)
    whole = contents(generate(loaded(project, *wishes, f"store.path={tmp_path / 'whole'}"), make=engine))
    append = shard.OpenShard.append

    def full(self, *sample):
        if self.root.name.endswith("-0001") and len(list(self.rows())) >= 7:
            raise OSError(number, "made up")
        return append(self, *sample)

    monkeypatch.setattr(shard.OpenShard, "append", full)
    table, recipe, events = load_data(config.data), make_recipe(config), []
    plan = make_plan(config, table, select_hard(config.hard, table), recipe)
    with StoreWriter(config.store.path, "run", shard_bytes=10**6) as writer:
        given = Assignment(config, plan, "run", 4)
        quarantine, meter = Quarantine(config.store.path, len(table), 1.0), Meter("generate", len(plan), ignore)
        coordinator = Coordinator(given, writer, quarantine, meter, events.append)
        drive(coordinator, given, 3)
    assert contents(Store(config.store.path)) == whole
    states = [member.state for member in coordinator.members.values()]
    assert states == ["stopped", "failed", "stopped"]
    (error,) = coordinator.errors
    assert error["worker"].endswith("-0001") and "made up" in error["reason"]
    assert [event["reason"] for event in events if event["event"] == "worker"] == [error["reason"]]


def test_a_missing_gpu_is_said_and_a_cluster_may_get_one():
    bare = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0})
    rich = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": 3.0})
    with pytest.raises(ConfigError, match='device "cuda": Ray finds no GPU on this machine'):
        gpus_per_worker(bare, Cluster(), "cuda")
    assert gpus_per_worker(bare, Cluster("head:6379"), "cuda") == 1
    assert [gpus_per_worker(ray, Cluster(), "auto") for ray in (bare, rich)] == [0, 1]
    assert [room(bare, Cluster(cores=2), 0), room(rich, Cluster(actors=(1, 2)), 1)] == [4, 2]
    assert room(bare, Cluster(actors=(5, 9)), 1) == 5
