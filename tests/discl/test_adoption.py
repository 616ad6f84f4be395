"""Adoption: shards of workers' stores enter once, whatever dies when; a worker that was given up reaches nobody."""

import random

import pytest

from discl.errors import StoreError
from discl.store import Store, StoreWriter, verify
from discl.store.adoption import take_over, workers_folder
from tests.discl.store_samples import check, fill, key, sample


def test_workers_shards_enter_in_turn(tmp_path):
    root = tmp_path / "store"
    with StoreWriter(root, "run", shard_bytes=10**6) as writer:
        for turn in range(3):
            for worker in range(2):
                place = workers_folder(root) / f"w{worker}"
                first = 20 * (2 * turn + worker)
                fill(place, range(first, first + 20), shard_bytes=5_000)
                tables = writer.adopt(place)
                assert sum(map(len, tables)) == 20
                assert not list((place / "manifest").glob("*.json"))
        assert len(writer.keys) == 120
    check(Store(root), 120)
    assert verify(root) == []


def test_a_snapshot_stays_a_prefix(tmp_path):
    root = tmp_path / "store"
    with StoreWriter(root, "run", shard_bytes=10**6) as writer:
        snapshots = []
        for worker in range(4):
            fill(workers_folder(root) / f"w{worker}", range(10 * worker, 10 * worker + 10))
            writer.adopt(workers_folder(root) / f"w{worker}")
            snapshots.append((Store(root).snapshot(), 10 * worker + 10))
    for snapshot, count in snapshots:
        assert len(Store(root, at=snapshot)) == count


@pytest.mark.parametrize("sealed", [0, 30])
def test_what_a_lost_worker_had_not_sealed_is_kept_and_what_he_writes_later_is_not(tmp_path, sealed):
    place = tmp_path / "w0"
    with pytest.raises(StoreError, match=r"cannot|went to"), StoreWriter(place, "run", shard_bytes=10**7) as zombie:
        for i in range(30):
            zombie.append(*sample(i))
            if i + 1 == sealed:
                zombie.seal()
        zombie.flush()
        with StoreWriter(tmp_path / "other", "run", shard_bytes=10**6) as writer:
            assert sum(map(len, writer.adopt_lost(place))) == 30
        for i in range(30, 40):
            zombie.append(*sample(i))
    check(Store(tmp_path / "other"), 30)
    assert verify(tmp_path / "other") == []


@pytest.mark.parametrize("step", ["publish", "link", "unlink"])
def test_a_coordinator_that_dies_while_it_enters(tmp_path, monkeypatch, step):
    root, place = tmp_path / "store", workers_folder(tmp_path / "store") / "w0"
    where = {"publish": "manifest.publish", "link": "_link", "unlink": "os.unlink"}[step]

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        StoreWriter(root, "run", shard_bytes=10**6) as writer,
        monkeypatch.context() as patch,
    ):
        assert len(fill(place, range(50), shard_bytes=10_000).shards) > 2
        patch.setattr(f"discl.store.adoption.{where}", die)
        writer.adopt(place)
    with StoreWriter(root, "again", shard_bytes=10**6):
        pass  # recovery takes over what lies in workers/
    check(Store(root), 50)
    assert verify(root) == []
    assert not list(workers_folder(root).glob("*"))


def test_samples_that_the_store_has_already_enter_once(tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    root = tmp_path / "store"
    fill(root, chance.sample(range(60), 25))
    fill(workers_folder(root) / "w0", chance.sample(range(60), 40), shard_bytes=8_000)
    fill(workers_folder(root) / "w1", range(60), shard_bytes=8_000)
    with StoreWriter(root, "run", shard_bytes=10**6):
        pass
    check(Store(root), 60)
    assert verify(root) == []


def test_a_folder_that_a_worker_never_made(tmp_path):
    with StoreWriter(tmp_path / "store", "run", shard_bytes=10**6) as writer:
        assert writer.adopt_lost(workers_folder(tmp_path / "store") / "w0") == []
        writer.append(*sample(0))
    assert Store(tmp_path / "store").keys() == [key(0)]
    lost = take_over(workers_folder(tmp_path / "store") / "w1")
    assert not lost.exists()
