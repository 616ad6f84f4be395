"""Store writing: images appended and sealed by `StoreWriter` beside the same bytes written and fsynced as one file.

Timed: from opening to the sealed shard (journal, CRC, tar, index, manifest, fsync). The peer is a ceiling: it keeps no
index, no checksum and cannot be continued after a crash.
"""

import itertools
import os

import numpy as np
import pytest

from benchmarks.timing import record_micro
from discl.store import StoreWriter

IMAGES, BYTES = 200, 100_000


def row(number: int) -> dict:
    return {"key": f"{number:032x}", "recipe": "r", "source_id": "s", "class_id": 0, "level": 0, "status": "ok"}


def stored(folder, image: bytes) -> None:
    with StoreWriter(folder, "bench", shard_bytes=1 << 30) as writer:
        for number in range(IMAGES):
            writer.append(row(number), image, "jpg", None)


def raw(file, image: bytes) -> None:
    with open(file, "wb") as out:
        for _ in range(IMAGES):
            out.write(image)
        out.flush()
        os.fsync(out.fileno())


@pytest.mark.parametrize("write", [stored, raw], ids=["store", "one file"])
def test_twenty_megabytes(benchmark, tmp_path, write):
    image = np.random.default_rng(0).bytes(BYTES)
    numbers = itertools.count()
    benchmark(lambda: write(tmp_path / str(next(numbers)), image))


def run(small: bool = False) -> None:
    record_micro("store", __file__, pairs=("store", "one file"), small=small)
