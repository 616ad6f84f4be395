"""Stores behind URLs to test with: a file system that fails, and how a store gets there and back."""

import random
import uuid
from pathlib import Path
from typing import ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from discl.store import Store, StoreWriter
from discl.store.home import Home
from tests.discl.store_samples import key, sample

FOLDERS = {"shards": ".tar", "index": ".parquet", "embeddings": ".npy", "manifest": ".json"}


class Flaky(MemoryFileSystem):
    """Every call that changes something may fail: before, half-way (torn), or after it was done."""

    protocol = "flaky"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    chance: "random.Random | None" = None
    dead = False

    def _fault(self, act, torn=None):
        if Flaky.dead:
            raise TimeoutError("no route")
        kind = Flaky.chance.random() if Flaky.chance else 1.0
        if kind < 0.15:
            raise OSError(503, "SlowDown")
        if kind < 0.3 and torn:
            torn()
            raise ConnectionResetError("torn upload")
        act()
        if kind < 0.4:
            raise TimeoutError("the answer got lost")

    def put_file(self, lpath, rpath, **options):
        data = Path(lpath).read_bytes()
        whole = lambda: MemoryFileSystem.pipe_file(self, rpath, data)  # noqa: E731
        self._fault(whole, lambda: MemoryFileSystem.pipe_file(self, rpath, data[: len(data) // 2]))

    def rm_file(self, path):
        self._fault(lambda: MemoryFileSystem.rm_file(self, path))

    def pipe_file(self, path, value, mode="overwrite", **options):
        self._fault(lambda: MemoryFileSystem.pipe_file(self, path, value, mode=mode))


def write(url: str, numbers, folder: Path, at_last=lambda: None) -> None:
    with Home(url, folder) as there, StoreWriter(folder, "run", shard_bytes=8_000, on_sealed=there.send) as writer:
        for i in numbers:
            if key(i) not in writer.keys:
                writer.append(*sample(i))
        at_last()


def fetched(url: str, tmp_path: Path) -> Path:
    """The remote store as a folder."""
    files, root = fsspec.core.url_to_fs(url)
    place = tmp_path / f"copy-{uuid.uuid4().hex}"
    files.get(f"{root}/", str(place), recursive=True)
    return place


def strangers(url: str) -> list[str]:
    """Files of shards that are not in the manifest, and entries without one."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    live = {f"{shard.number:06d}" for shard in Store(url).shards}
    found = [path for folder in FOLDERS for path in files.find(f"{root}/{folder}", maxdepth=1)]
    there = [path for path in found if path.endswith(tuple(FOLDERS.values()))]
    return [path for path in there if path.rpartition("/")[2].partition(".")[0] not in live]
