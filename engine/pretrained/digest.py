"""What shapes pixels -> 32 hex characters. Weight files are large, so a process reads each one once."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from discl.engine.pretrained.files import ModelFiles

DIGEST_BYTES = 16
BLOCK = 1 << 24


def model_digest(files: ModelFiles) -> str:
    """Of the names and bytes of every file that an image of this model depends on."""
    place = files.folder
    return combined((_name(file, place), file_digest(file)) for file in files.shaping_pixels())


def file_digest(file: Path) -> str:
    """Of one file's bytes; read again only when its size or time has changed."""
    status = file.stat()
    return _file_digest(file, status.st_size, status.st_mtime_ns)


def combined(parts: Iterable[tuple]) -> str:
    """Of a sequence of (name, digest, ...) tuples of plain values, in their order."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(("\0".join(map(str, part)) + "\n").encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1024)
def _file_digest(file: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _name(file: Path, folder: Path) -> str:
    """Where a file stands in its model: a single checkpoint stands beside the folder, under any name."""
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else "checkpoint"
