"""Kill the writer at any time, start it again: the store ends as an uninterrupted run makes it.

tests/faults does it at every call that changes a file.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from discl.store import Store, StoreWriter, verify
from discl.store.shard import unsealed_numbers
from tests.discl.store_samples import check, fill, key, sample

COUNT = 400
ROOT = Path(__file__).parents[2]
# Prints how many samples it found, then how many are durable, time and again.
FILL = f"""
import sys
from discl.store import StoreWriter
from tests.discl.store_samples import key, sample
with StoreWriter(sys.argv[1], "run", shard_bytes=40_000, sync_samples=16) as writer:
    print(len(writer.keys), flush=True)
    for i in range({COUNT}):
        if key(i) not in writer.keys:
            writer.append(*sample(i))
            if i % 5 == 0:
                writer.flush()
                print(len(writer.keys), flush=True)
"""


def start(script, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def tar_members(root):
    found = {}
    for shard in root.glob("shards/*.tar"):
        with tarfile.open(shard) as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = tar.extractfile(member).read()
    return found


def kill_at_random(root, kills, rng):
    """Runs FILL until it ends by itself, killing the first `kills` attempts: none loses what was durable."""
    durable = died = 0
    for attempt in range(kills + 1):
        writer = start(FILL, root)
        first = writer.stdout.readline()
        assert int(first or -1) >= durable, writer.stderr.read().decode()
        if attempt < kills:
            time.sleep(rng.uniform(0, 0.3))
            writer.kill()
        counts, errors = writer.communicate()
        assert writer.returncode in ((0, -signal.SIGKILL) if attempt < kills else (0,)), errors.decode()
        died += writer.returncode != 0
        durable = max([int(first), *map(int, counts.rpartition(b"\n")[0].split())])
    return died


def survives(tmp_path, kills, seed):
    root, whole = tmp_path / "killed", tmp_path / "whole"
    died = kill_at_random(root, kills, random.Random(seed))
    fill(whole, range(COUNT), shard_bytes=40_000)
    check(Store(root), COUNT)
    assert verify(root) == []
    assert tar_members(root) == tar_members(whole)
    return died


@pytest.mark.parametrize("seed", [0])
def test_three_kills(tmp_path, seed):
    survives(tmp_path, 3, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_twenty_kills(tmp_path, seed):
    assert survives(tmp_path, 20, seed) > 0, "no attempt was killed: the samples are too few for this machine"


@pytest.fixture
def unsealed(tmp_path):
    """A store whose writer died after samples 0..9, as copies of its files: nothing was sealed."""
    writer = StoreWriter(tmp_path / "s", "run", shard_bytes=10**9)
    writer.__enter__()
    for i in range(10):
        writer.append(*sample(i))
    writer.flush()
    writer._lock.release()
    return tmp_path / "s"


def test_recovered_keys_are_not_made_again(unsealed):
    assert len(Store(unsealed)) == 0, "readers see sealed shards only"
    with StoreWriter(unsealed, "run", shard_bytes=10**9) as writer:
        assert writer.keys == {key(i) for i in range(10)}
        for i in range(10, 15):
            writer.append(*sample(i))
    check(Store(unsealed), 15)
    assert [shard.number for shard in Store(unsealed).shards] == [0], "the same shard went on"


@pytest.mark.parametrize("sealing", ["renamed", "published"])
def test_death_late_in_sealing(unsealed, sealing):
    """The tar has its final name and the journal is still there; without, then with its manifest entry."""
    journal = (unsealed / "shards/000000.journal").read_bytes()
    fill(unsealed, [])
    manifest = unsealed / "manifest/000000.json"
    (unsealed / "shards/000000.journal").write_bytes(journal)
    if sealing == "renamed":
        manifest.unlink()
    entry = json.loads(manifest.read_text()) if sealing == "published" else None
    with StoreWriter(unsealed, "run", shard_bytes=10**9) as writer:
        assert writer.keys == {key(i) for i in range(10)}
    check(Store(unsealed), 10)
    assert not (unsealed / "shards/000000.journal").exists()
    assert verify(unsealed) == []
    assert entry is None or json.loads(manifest.read_text()) == entry, "what is published never changes"


@pytest.mark.parametrize("file", ["shards/000000.tar.tmp", "shards/000000.journal"])
@pytest.mark.parametrize("where", [0.0, 0.001, 0.5, 0.999])
def test_cut_files_are_refilled(unsealed, file, where):
    data = (unsealed / file).read_bytes()
    (unsealed / file).write_bytes(data[: int(len(data) * where)])
    check(fill(unsealed, range(10)), 10)
    assert verify(unsealed) == []


def test_the_next_writer_removes_what_killed_ones_left_half_written(unsealed):
    left = ["manifest/.000007.json.1.tmp", "index/.000007.parquet.1.tmp", "embeddings/.000007.npy.1.tmp"]
    for name in left:
        (unsealed / name).write_bytes(b"half")
    with StoreWriter(unsealed, "run", shard_bytes=10**6):
        assert not any((unsealed / name).exists() for name in left)


def test_unsealed_shards_of_a_store_put_together_by_hand(unsealed, tmp_path):
    other = StoreWriter(tmp_path / "other", "run", shard_bytes=10**9)
    other.__enter__()
    for i in range(10, 14):
        other.append(*sample(i))
    other.flush()
    other._lock.release()
    for suffix in ("journal", "tar.tmp"):
        os.rename(tmp_path / f"other/shards/000000.{suffix}", unsealed / f"shards/000004.{suffix}")
    assert unsealed_numbers(unsealed) == [0, 4]
    check(fill(unsealed, range(14)), 14)
    assert unsealed_numbers(unsealed) == []
