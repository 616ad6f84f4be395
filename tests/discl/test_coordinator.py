"""The coordinator without Ray: who may work, what a failed worker leaves, what it costs."""

import time

import numpy as np
import pytest

from discl.cluster.coordinator import Coordinator
from discl.cluster.leases import MOST_LOSSES
from discl.cluster.members import DECISIVE
from discl.cluster.messages import Assignment, Hello, Report
from discl.data import load_data
from discl.errors import RunFailed
from discl.plan import make_plan
from discl.progress import Meter
from discl.quarantine import Quarantine
from discl.store import StoreWriter
from tests.discl.project import loaded, make_project
from tests.discl.store_samples import fill

VERSIONS = dict.fromkeys(DECISIVE, "1.0")


@pytest.fixture
def coordinator(tmp_path, tiny_models):
    config = loaded(make_project(tmp_path, tiny_models), "spectrum.seeds=40", "budget.usd_per_hour=3600")
    table = load_data(config.data)
    plan = make_plan(config, table, np.arange(3), {"made": "up"})
    events = []
    with StoreWriter(config.store.path, "run", shard_bytes=10**6) as writer:
        quarantine = Quarantine(config.store.path, len(table), 1.0)
        meter = Meter("generate", len(plan), events.append, 3600.0)
        made = Coordinator(Assignment(config, plan, "run", 4), writer, quarantine, meter, events.append)
        made.events = events
        yield made


def hello(coordinator, **changes) -> Hello:
    right = Hello("node", VERSIONS, coordinator.plan.recipe_digest, None, 4, time.time())
    return right._replace(**changes)


def joined(coordinator):
    member = coordinator.join()
    member.folder.mkdir(parents=True)
    return member


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"versions": VERSIONS | {"discl": "0.0.1"}}, "discl 0.0.1 there, 1.0 here"),
        ({"versions": VERSIONS | {"torch": "9"}}, "torch 9 there, 1.0 here"),
        ({"recipe": "f" * 32}, "its model or recipe has the digest ffff"),
        ({"scorer": {"name": "other"}}, "scorer and slots {'name': 'other'}, 4; the first worker has None, 4"),
        ({"slots": 9}, "scorer and slots None, 9"),
    ],
)
def test_a_worker_that_would_make_other_pixels_is_refused_and_the_rest_goes_on(coordinator, changes, reason):
    first, other = joined(coordinator), joined(coordinator)
    assert coordinator.greet(first, hello(coordinator), VERSIONS)
    assert not coordinator.greet(other, hello(coordinator, **changes), VERSIONS)
    assert other.state == "refused" and reason in coordinator.errors[-1]["reason"]
    assert coordinator.orders(first, 2).blocks


def test_a_folder_that_is_not_shared_is_refused(coordinator):
    assert not coordinator.greet(coordinator.join(), hello(coordinator), VERSIONS)
    assert "must lie on a shared disk" in coordinator.errors[-1]["reason"]


def test_a_wrong_clock_is_a_warning(coordinator, caplog):
    assert coordinator.greet(joined(coordinator), hello(coordinator, clock=time.time() + 7200), VERSIONS)
    assert "its clock is 7200 s off" in caplog.text


def test_sources_that_workers_die_of_are_given_up_and_named(coordinator):
    for _ in range(MOST_LOSSES):
        member = joined(coordinator)
        coordinator.greet(member, hello(coordinator), VERSIONS)
        (block,) = coordinator.orders(member, 1).blocks
        assert block.number == 0
        coordinator.lost(member, "lost", "killed")
    assert coordinator.plan.table.ids[0] in coordinator.errors[-1]["reason"]
    rest = joined(coordinator)
    while blocks := coordinator.orders(rest, 2).blocks:
        coordinator.take(rest, Report(done=[block.number for block in blocks]))
    assert coordinator.leases.finished
    with pytest.raises(RunFailed, match="1 blocks of sources were given up"):
        coordinator.check_complete()


def test_shards_of_a_failed_worker_are_entered(coordinator):
    member = joined(coordinator)
    coordinator.greet(member, hello(coordinator), VERSIONS)
    fill(member.folder, range(12))
    coordinator.lost(member, "failed", "OSError: No space left on device")
    assert len(coordinator.writer.keys) == 12
    assert any(event.get("reason") == "failed: OSError: No space left on device" for event in coordinator.events)


def test_cost_is_that_of_all_workers(coordinator):
    for _ in range(3):
        member = joined(coordinator)
        coordinator.greet(member, hello(coordinator), VERSIONS)
        member.began -= 10.0
    assert 30 <= coordinator.meter.event(scored=False)["usd"] < 60
