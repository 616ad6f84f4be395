"""Whole-file writes that are either complete or absent, also after a crash or a power cut."""

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
CLAIM_S = 5.0  # a claim is held for microseconds; one that is older was left by a dead process


def write_atomic(path: str | os.PathLike, *pieces: bytes | memoryview) -> None:
    """Write `pieces`, end to end, beside `path`, fsync them, rename them into place and fsync the folder."""
    path = Path(path)
    with _beside(path, *pieces) as temporary:
        os.replace(temporary, path)
    fsync_folder(path.parent)


@contextmanager
def replaced(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """The same for what is written piece by piece: a file that takes the place of `path` when the block ends well."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _named(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def put_if_absent(path: str | os.PathLike, data: bytes) -> None:
    """The same, but never over a file that is there: of any number of callers one succeeds.

    A hard link does that in one step. Where the file system refuses links, the name is claimed with an exclusive
    create first. Raises FileExistsError.
    """
    path = Path(path)
    with _beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with _claimed(path):
                os.rename(temporary, path)
    fsync_folder(path.parent)


@contextmanager
def _beside(path: Path, *pieces: bytes | memoryview) -> Iterator[Path]:
    """A durable file with `pieces` in the folder of `path`, gone at the end unless it was renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _named(path), open(temporary, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """The system does not say which file it refused to write."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Nobody else who asks may put `path` meanwhile. FileExistsError where it is there."""
    claim = path.with_name(f".{path.name}.claim")
    began = time.monotonic()
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
        except FileExistsError:
            if path.exists():
                raise
            if time.monotonic() - began > CLAIM_S:
                claim.unlink(missing_ok=True)
            time.sleep(0.01)
    try:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
        yield
    finally:
        claim.unlink(missing_ok=True)


def remove_leftovers(folder: Path, older_than_s: float = 3600.0, names: str = ".*.tmp") -> None:
    """Remove what killed processes left of their writes; younger files may be of a living one."""
    for leftover in folder.glob(names):
        try:
            if time.time() - leftover.stat().st_mtime > older_than_s:
                leftover.unlink()
        except FileNotFoundError:
            continue  # its owner was faster


def fsync_folder(folder: str | os.PathLike) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
