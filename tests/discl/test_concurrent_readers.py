"""Readers beside a writer, in threads and in another process: each sees whole shards only, and what it saw stays."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from discl.store import Store, StoreWriter, verify
from tests.discl.store_samples import check, key, sample

COUNT = 300
READ = """
import sys
from discl.store import Store
from tests.discl.store_samples import check, key
sizes = [0]
while sizes[-1] < int(sys.argv[2]):
    store = Store(sys.argv[1])
    assert len(store) >= sizes[-1], "a shard is gone"
    if len(store) > sizes[-1]:
        check(store, len(store))
    sizes.append(len(store))
print(len(set(sizes)))
"""


class Reader(threading.Thread):
    """Opens the store again and again; keeps a snapshot of every state and reads through old ones."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.ended, self.snapshots, self.failure = root, threading.Event(), {}, None

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self.look()
            self.look()
        except BaseException as error:
            self.failure = error

    def look(self) -> None:
        store = Store(self.root)
        self.snapshots[store.snapshot()] = len(store)
        old, size = next(iter(self.snapshots.items()))
        assert len(Store(self.root, at=old)) == size
        assert verify(self.root) == []
        for i in range(0, len(store), 17):
            assert store.table["shard"][i].as_py() is None or store.read(key(i)) == sample(i)[1]


def test_readers_beside_a_writer(tmp_path):
    root = tmp_path / "s"
    with StoreWriter(root, "run", shard_bytes=15_000) as writer:
        readers = [Reader(root) for _ in range(2)]
        other = subprocess.Popen([sys.executable, "-c", READ, root, str(COUNT)], stdout=subprocess.PIPE, text=True)
        for reader in readers:
            reader.start()
        for i in range(COUNT):
            writer.append(*sample(i))
            while i == COUNT // 3 and not all(reader.snapshots or reader.failure for reader in readers):
                time.sleep(0.01)
    states, _ = other.communicate(timeout=120)
    for reader in readers:
        reader.ended.set()
        reader.join()
        assert reader.failure is None, reader.failure
        assert len(reader.snapshots) > 1
    assert other.returncode == 0 and int(states) > 1
    check(Store(root), COUNT)
