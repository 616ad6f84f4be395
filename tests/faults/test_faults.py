"""Killed, refused or cut off at any call that changes a file: nothing durable is lost, nothing comes twice.

The workload fills a store, writes a selection and checkpoints (workload.py). The full campaigns take every call in
every way; the quick ones a draw of them, with the seed in the test's name.
"""

import os
import tempfile
from pathlib import Path

import pytest

from tests.faults import power, shim


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def folder(tmp_path):
    """In memory if there is room: what a kill leaves does not depend on the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        yield Path(memory)


ALL = pytest.param(0, 0, marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id="all")


@pytest.mark.parametrize("what", ["kills", "failures"])
@pytest.mark.parametrize(("count", "seed"), [pytest.param(20, 7, id="20-seed-7"), ALL])
def test_faults_at_calls(library, folder, what, count, seed):
    report = shim.run_preloaded(library, "tests.faults.campaign", folder, what, count, seed)
    done, _, rest = report.partition(f" of {what} at ")
    assert int(rest.split()[0]) > 150, "the shim saw too little"
    assert int(done) == count or int(done) > 450


@pytest.mark.parametrize(
    ("count", "seed"),
    [(20, 3), pytest.param(400, 4, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_power_cuts(library, folder, count, seed):
    report = shim.run_preloaded(library, "tests.faults.cuts", folder, count, seed)
    assert report.startswith(f"{count} power cuts in ")


def test_short_writes_are_completed(library, folder):
    assert "1 of short at" in shim.run_preloaded(library, "tests.faults.campaign", folder, "short", 1, 0)


def test_the_shim_sees_every_kind_of_call_at_every_part(library, folder):
    """Otherwise a campaign could pass by looking away."""
    shim.run_preloaded(library, "tests.faults.cuts", folder, 0, 0)
    seen = {(call.name, Path(call.paths[-1]).parent.name) for call in power.calls(folder / "log")}
    whole = {"create", "write", "sync"}
    for part, names in {
        "shards": whole | {"truncate", "rename", "unlink"},
        "index": whole | {"rename"},
        "embeddings": whole | {"rename"},
        "manifest": whole | {"link", "unlink"},
        "selections": whole | {"rename"},
        "out": whole | {"rename"},
    }.items():
        assert names <= {name for name, folder_name in seen if folder_name == part}, part


def test_a_power_cut_keeps_what_was_synced_and_nothing_else_for_certain(tmp_path):
    """The model itself: without fsync of the file or of its folder, each outcome occurs."""
    import random

    def after(*calls: tuple) -> set:
        disk = power.Disk()
        for name, path, *rest in calls:
            offset, data = (rest or (0, b""))[:2] if name == "write" else (0, b"")
            disk.apply(power.Call(name, offset, path.split(","), data))
        return {disk.left(random.Random(seed)).get("/d/b") for seed in range(200)}

    new, old = ("create", "/d/a"), b"o" * 600
    write, sync, rename, folder = ("write", "/d/a", 0, old), ("sync", "/d/a"), ("rename", "/d/a,/d/b"), ("sync", "/d")
    assert after(new, write, sync, rename, folder) == {old}
    assert after(new, write, sync, rename) == {None, old}
    torn = after(new, write, rename, folder)
    assert {b"", old, bytes(512) + old[512:]} <= torn and len(torn) > 4
