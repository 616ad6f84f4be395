"""A store's folder in, the right to write to it out: one coordinator at a time, on one machine or on many.

    .writer.lock    flock: the system frees it when its holder dies. On some shared file systems another host's
                    lock is not seen, or there is none.
    .writer.lease   who holds the store: host, process, run and a beat that its holder changes every few seconds.
                    Made by put-if-absent, removed at the end.

A lease that its holder left behind is taken over: at once where this system's own process table shows him dead,
else when its beat stands still for `stale_s`. Clocks are never compared.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from discl.atomic import put_if_absent, remove_leftovers
from discl.errors import StoreError

log = logging.getLogger(__name__)

HEARTBEAT_S, STALE_S = 5.0, 30.0
NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


class WriterLock:
    """Held from construction to `release`. Raises StoreError naming the holder when another coordinator is there.

    `check` raises StoreError once the lease is lost: this process stood still (a suspended machine, say) for so
    long that another took it for dead.
    """

    def __init__(
        self, root: Path, run_id: str = "", heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S
    ) -> None:
        self.root, self._lease, self._heartbeat_s, self._stale_s = root, root / ".writer.lease", heartbeat_s, stale_s
        self._mine: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "run_id": run_id,
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "system": _system(),
            "started": _start_time(os.getpid()),
            "token": secrets.token_hex(8),
            "beat": 0,
        }
        self.taken_over = False  # from a holder who stood still: he might yet wake up and write
        self._thief: str | None = None
        self._ended = threading.Event()
        self._record: int | None = None  # the lease, open
        self._descriptor: int | None = os.open(root / ".writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._take_lease()
            remove_leftovers(root, stale_s, ".*writer.lease.*.tmp")
        except BaseException:
            self._close()
            raise
        # A forked child shares the lock; a data worker that outlives a killed writer must not keep it.
        close = weakref.WeakMethod(self._close)
        os.register_at_fork(after_in_child=lambda: (close() or (lambda: None))())
        self._heart = threading.Thread(target=self._beat, name="store lease", daemon=True)
        self._heart.start()

    def _lock(self) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal(_parsed(_read(self._lease))) from error
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise

    def _take_lease(self) -> None:
        while True:
            try:
                put_if_absent(self._lease, self._bytes())
                self._record = os.open(self._lease, os.O_WRONLY | os.O_CLOEXEC)
                return
            except FileExistsError:
                seen = _read(self._lease)
            if seen is not None:
                if not self._is_dead(_parsed(seen)):
                    self._watch(seen)
                    self.taken_over = True
                self._remove(seen)

    def _bytes(self) -> bytes:
        """The record, at a length that does not change: it is written over in place."""
        return json.dumps(self._mine).encode().ljust(1024)

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        """Whether this system knows that the holder is no more."""
        here = holder.get("system") == self._mine["system"]
        return here and _start_time(holder.get("pid", 0)) != holder.get("started")

    def _watch(self, seen: bytes) -> None:
        """Return when the lease did not change for `stale_s`; StoreError when its holder shows a sign of life."""
        log.info("%s: waiting %g s for a sign of %s", self.root, self._stale_s, _described(_parsed(seen)))
        end = time.monotonic() + self._stale_s
        while time.monotonic() < end:
            time.sleep(min(0.2, self._stale_s / 10))
            now = _read(self._lease)
            if now is None:
                return
            if now != seen:
                raise self._refusal(_parsed(now))

    def _remove(self, seen: bytes) -> None:
        """Put away the lease as it was `seen`, never a newer one."""
        aside = self._lease.with_name(f".writer.lease.{self._mine['token']}.tmp")
        try:
            os.rename(self._lease, aside)
        except FileNotFoundError:
            return
        try:
            found = aside.read_bytes()
            aside.unlink()
        except FileNotFoundError:  # old enough for one who has the store by now to clean it away
            return
        if found != seen:
            put_if_absent(self._lease, found)
            raise self._refusal(_parsed(found))
        log.info("%s: took over from %s, which ended without a word", self.root, _described(_parsed(seen)))

    def _refusal(self, holder: dict[str, Any]) -> StoreError:
        return StoreError(f"{self.root} is being written by {_described(holder)}; wait for it or stop it")

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            try:
                self._beat_once()
            except OSError as error:
                log.warning("%s: the lease cannot be renewed: %s", self.root, error)

    def _beat_once(self) -> None:
        now = _read(self._lease)
        holder = _parsed(now)
        if holder.get("token") != self._mine["token"]:
            self._thief = _described(holder) if now else "somebody who removed it"
            self._ended.set()
            return
        self._mine["beat"] += 1
        assert self._record is not None
        os.pwrite(self._record, self._bytes(), 0)  # not by name: it may be another's by now

    def check(self) -> None:
        if self._thief is not None:
            raise StoreError(
                f"{self.root}: this writer stood still for more than {self._stale_s:g} s and the lease went to "
                f"{self._thief}; what was sealed is kept, start again"
            )

    def release(self) -> None:
        """Free the store. What belongs to another by now is left alone."""
        if self._descriptor is None:
            return
        self._ended.set()
        self._heart.join()
        try:
            if self._thief is None and _parsed(_read(self._lease)).get("token") == self._mine["token"]:
                self._lease.unlink(missing_ok=True)
        except OSError as error:  # the next one sees that this process is no more
            log.warning("%s: the lease cannot be removed: %s", self.root, error)
        self._close()

    def _close(self) -> None:
        for descriptor in (self._descriptor, self._record):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._record = None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parsed(record: bytes | None) -> dict[str, Any]:
    """Empty for a record that is being written."""
    try:
        holder = json.loads(record or b"{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _described(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    run = f", run {holder['run_id']}" if holder.get("run_id") else ""
    return f"process {holder['pid']} on {holder.get('host')}{run}, since {holder.get('since')}"


def _system() -> str:
    """The running kernel and the process numbers' space: within it, locks and process numbers can be trusted."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(8)


def _start_time(pid: int) -> str | None:
    """In ticks since boot; None for no living process. Tells apart two processes that were given one number."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]
