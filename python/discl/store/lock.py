"""A store's folder in, the right to write to it out: one holder, and the system frees it when that dies."""

import fcntl
import os
from pathlib import Path

from discl.errors import StoreError


class WriterLock:
    """flock on STORE/.writer.lock. Raises StoreError naming the holder's pid when another writer is there."""

    def __init__(self, root: Path) -> None:
        self._descriptor = os.open(root / ".writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise StoreError(
                f"{root} is being written by process {holder}; wait for it or stop it"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
