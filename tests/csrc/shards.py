"""A handful of samples for shards, and the pair of files they are written to."""

import random
from pathlib import Path

from discl import _C


def key(i: int) -> str:
    return f"{i:032x}"


def samples(count: int, seed: int = 0) -> list[tuple[str, str, bytes, int, bytes, bytes]]:
    """Arguments of ShardWriter.append: every third has no image, lengths straddle the tar's blocks."""
    rng = random.Random(seed)
    lengths = [1, 511, 512, 513, 2000]
    out = []
    for i in range(count):
        bare = i % 3 == 2
        image = b"" if bare else rng.randbytes(lengths[i % len(lengths)])
        row = b'{"run":"%s","i":%d}' % (b"r" * (i % 4), i)
        out.append((key(i), "" if bare else "png", image, row.index(b'"i"'), row, rng.randbytes(6)))
    return out


def in_tar(sample: tuple[str, str, bytes, int, bytes, bytes]) -> bytes:
    """What the tar has of a row."""
    return b"{" + sample[4][sample[3] :]


class Pair:
    """The two files of an unsealed shard in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.tar, self.journal = folder / "0.tar.tmp", folder / "0.journal"

    def open(self) -> _C.ShardWriter:
        return _C.ShardWriter(str(self.tar), str(self.journal))

    def put(self, tar: bytes, journal: bytes) -> None:
        self.tar.write_bytes(tar)
        self.journal.write_bytes(journal)

    def bytes(self) -> tuple[bytes, bytes]:
        return self.tar.read_bytes(), self.journal.read_bytes()
