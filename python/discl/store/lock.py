"""A store's folder in, the right to write to it out: one holder, and the system frees it when that dies."""

import fcntl
import os
import weakref
from pathlib import Path

from discl.errors import StoreError


class WriterLock:
    """flock on STORE/.writer.lock. Raises StoreError naming the holder's pid when another writer is there."""

    def __init__(self, root: Path) -> None:
        path = root / ".writer.lock"
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            self.release()
            raise StoreError(f"{root} is being written by process {holder}; wait for it or stop it") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        # A forked child shares the lock; a data worker that outlives a killed writer must not keep it.
        release = weakref.WeakMethod(self.release)
        os.register_at_fork(after_in_child=lambda: (release() or (lambda: None))())

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
