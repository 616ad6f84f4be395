"""A store behind a URL reads as the folder does; its local copies are bounded, checked, shared and mended."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from discl.config import load_config
from discl.dataset import SpectrumDataset
from discl.errors import StoreError
from discl.loader import CurriculumLoader
from discl.store import Store, StoreWriter
from tests.discl.loading import assert_same, loader
from tests.discl.spectrum_samples import key, make_table, png

SHARDS, PER_SHARD = 5, 4


def make_shards(folder, first=0, shards=SHARDS) -> Store:
    """`shards` shards of four images of class 1, with embeddings."""
    number = first
    for _ in range(shards):
        with StoreWriter(folder, "run", shard_bytes=1 << 30) as writer:
            for _ in range(PER_SHARD):
                row = {"key": key(number), "source_id": "s", "class_id": 1, "class_name": "a/b ü", "status": "ok"}
                row |= {"level": 50 * (number % 2), "seed": number, "retry": 0}
                writer.append(row, png((200, number, 9), size=(64, 64)), "png", np.full(3, number, np.float16))
                number += 1
    store = Store(folder)
    store.write_selection("default", [key(n) for n in range(number)], {"rule": "all"})
    return store


@pytest.fixture
def local(tmp_path):
    return make_shards(tmp_path / "store")


@pytest.fixture(params=["memory", "file"])
def url(request, local, tmp_path):
    """Where the same store lies behind a URL."""
    if request.param == "file":
        yield f"file://{local.path}"
        return
    files, root = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    files.put(f"{local.path}/", f"{root}/", recursive=True)
    yield f"memory:/{root}"
    files.rm(root, recursive=True)


def copies(cache, folder="shards"):
    return sorted(path.name for path in Path(cache).glob(f"*/{folder}/*"))


def test_it_reads_as_the_folder_does(url, local, tmp_path):
    remote = Store(url, cache=tmp_path / "cache")
    assert (len(remote), remote.snapshot(), remote.keys()) == (len(local), local.snapshot(), local.keys())
    assert remote.table.equals(local.table)
    assert remote.selection("default") == local.selection("default")
    assert remote.selection_rule("default") == {"rule": "all"}
    assert np.array_equal(remote.embeddings(), local.embeddings())
    assert not copies(tmp_path / "cache")  # no shard was needed
    assert remote.read(key(6)) == local.read(key(6))
    assert copies(tmp_path / "cache") == ["000001.tar"]
    assert np.array_equal(remote.image(key(0)), local.image(key(0)))
    again = pickle.loads(pickle.dumps(remote))
    assert again.read(key(19)) == local.read(key(19)) and again.snapshot() == local.snapshot()


def test_training_from_it_gives_the_same_batches(url, local, tmp_path):
    table = make_table(tmp_path / "data")
    remote = Store(url, cache=tmp_path / "cache")
    first, second = (loader(CurriculumLoader, SpectrumDataset(store, table)) for store in (local, remote))
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    data = SpectrumDataset(remote, table, transform=lambda image: np.asarray(image.resize((4, 4))))
    plain = SpectrumDataset(local, table, transform=data.transform)
    workers = torch.utils.data.DataLoader(data, batch_size=16, num_workers=2)
    for one, other in zip(workers, torch.utils.data.DataLoader(plain, batch_size=16), strict=True):
        assert one["id"] == other["id"] and torch.equal(one["image"], other["image"])


def test_a_snapshot_stays_when_the_remote_store_grows(url, local, tmp_path):
    before = local.snapshot()
    make_shards(local.path, first=20, shards=1)
    if url.startswith("memory"):
        fsspec.filesystem("memory").put(f"{local.path}/", url.removeprefix("memory:/") + "/", recursive=True)
    assert len(Store(url, cache=tmp_path / "cache")) == 24
    pinned = Store(url, at=before, cache=tmp_path / "cache")
    assert len(pinned) == 20 and len(pinned.selection("default")) == 20


def test_copies_stay_below_the_limit_and_the_longest_unused_goes(url, local, tmp_path):
    sizes = [shard.files[f"shards/{shard.number:06d}.tar"]["bytes"] for shard in local.shards]
    store = Store(url, cache=tmp_path / "cache", cache_bytes=3 * max(sizes))
    for shard in (0, 1, 2):
        store.read(key(PER_SHARD * shard))
        os.utime(store.path / f"shards/{shard:06d}.tar", (shard, shard))
    store.read(key(PER_SHARD * 3))
    assert copies(tmp_path / "cache") == ["000001.tar", "000002.tar", "000003.tar"]
    for number in np.random.default_rng(0).permutation(20).tolist() * 2:
        assert store.read(key(number)) == local.read(key(number))
        assert len(copies(tmp_path / "cache")) <= 3


def test_batches_from_a_cache_that_is_too_small(url, local, tmp_path):
    """Shards are evicted between being asked for and being read; nothing is replaced for that."""
    size = max(shard.files[f"shards/{shard.number:06d}.tar"]["bytes"] for shard in local.shards)
    remote = Store(url, cache=tmp_path / "cache", cache_bytes=size)
    table = make_table(tmp_path / "data")
    source, expected = (loader(CurriculumLoader, SpectrumDataset(store, table)) for store in (remote, local))
    for one, other in zip(source, expected, strict=True):
        assert_same(one, other)
    assert source.substituted == 0


def test_a_damaged_copy_is_made_again(url, local, tmp_path):
    Store(url, cache=tmp_path / "cache").read(key(0))
    (copy,) = (tmp_path / "cache").glob("*/shards/*")
    data = bytearray(copy.read_bytes())
    data[600] ^= 1
    copy.write_bytes(bytes(data))
    store = Store(url, cache=tmp_path / "cache")
    assert store.read(key(0)) == local.read(key(0))
    assert copy.read_bytes() == (local.path / "shards/000000.tar").read_bytes()


class Unsteady(LocalFileSystem):
    """file:// that cuts the first copies of a shard short, or all of them."""

    protocol = "unsteady"
    failures = 0

    def get_file(self, path, target, **options):
        super().get_file(path, target, **options)
        if path.endswith(".tar") and Unsteady.failures > 0:
            Unsteady.failures -= 1
            os.truncate(target, 100)


@pytest.fixture
def unsteady(local):
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    return f"unsteady://{local.path}"


def test_a_copy_that_comes_wrong_is_tried_again(unsteady, local, tmp_path):
    Unsteady.failures = 2
    assert Store(unsteady, cache=tmp_path / "cache").read(key(0)) == local.read(key(0))


def test_a_copy_that_never_comes_right_is_an_error_and_leaves_nothing(unsteady, tmp_path):
    Unsteady.failures = 99
    store = Store(unsteady, cache=tmp_path / "cache")
    with pytest.raises(StoreError, match=r"shards/000000.tar cannot be copied to .*: it came as .*the manifest says"):
        store.read(key(0))
    assert not list((tmp_path / "cache").glob("*/shards/*")) + list((tmp_path / "cache").glob("*/shards/.*"))


class Counted(LocalFileSystem):
    """file:// that notes every copy of a file that it makes."""

    protocol = "counted"
    notes = ""

    def get_file(self, path, target, **options):
        with open(self.notes, "a") as notes:
            notes.write(f"{os.path.basename(path)}\n")
        super().get_file(path, target, **options)


def _read_all(url, cache, queue):
    store = Store(url, cache=cache)
    queue.put([store.read(name) for name in store.selection("default")])


def test_processes_share_the_copies(local, tmp_path):
    """Four processes at once: each shard is copied once, whole, and nobody reads a piece of one."""
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.notes = str(tmp_path / "notes")
    context = multiprocessing.get_context("fork")
    queue, url = context.Queue(), f"counted://{local.path}"
    children = [context.Process(target=_read_all, args=(url, tmp_path / "cache", queue)) for _ in range(4)]
    for child in children:
        child.start()
    expected = [local.read(name) for name in local.selection("default")]
    for _ in children:
        assert queue.get(timeout=60) == expected
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    tars = [f"{number:06d}.tar" for number in range(SHARDS)]
    assert copies(tmp_path / "cache") == tars
    assert sorted(Path(Counted.notes).read_text().split()) == sorted(
        [*tars, *(f"{n:06d}.parquet" for n in range(SHARDS))]
    )


def test_copies_serve_when_the_remote_shard_is_gone(local, tmp_path):
    url = f"file://{local.path}"
    Store(url, cache=tmp_path / "cache").read(key(0))
    shutil.rmtree(local.path / "shards")
    store = Store(url, cache=tmp_path / "cache")
    assert store.read(key(1))
    with pytest.raises(StoreError, match=r"shards/000001.tar cannot be copied"):
        store.read(key(4))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://nothing/here", "memory://nothing/here: is not a discl store that can be read"),
        ("nosuch://bucket/store", "nosuch://bucket/store: .*nosuch"),
    ],
)
def test_what_is_no_store(address, message, tmp_path):
    with pytest.raises(StoreError, match=message):
        Store(address, cache=tmp_path)


def test_a_config_keeps_urls(tmp_path):
    (tmp_path / "run.toml").write_text('[data]\nkind = "store"\nroot = "gs://b/reals"\n[store]\npath = "s3://b/s"\n')
    config = load_config(tmp_path / "run.toml")
    assert (config.data.root, config.store.path) == ("gs://b/reals", "s3://b/s")


def test_it_is_read_only_and_names_what_it_has(url, tmp_path):
    store = Store(url, cache=tmp_path / "cache")
    with pytest.raises(StoreError, match="is read through a cache; write where the store is"):
        store.write_selection("mine", [key(0)], {})
    with pytest.raises(StoreError, match="has no selection 'mine'; it has: default"):
        store.selection("mine")
