"""The right to write to a store behind a URL: an object that one writer puts there and goes on changing.

As with `WriterLock`, clocks are never compared: a lease whose beat stands still for `stale_s` was left behind.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from typing import Any

from discl.errors import StoreError

log = logging.getLogger(__name__)

NAME = ".writer.lease"
HEARTBEAT_S, STALE_S = 10.0, 45.0


OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}  # know no folders, and would make buckets


def make_folder(files: Any, path: str) -> None:
    """Where the file system has folders."""
    protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
    if not protocols & OBJECT_STORES:
        files.makedirs(path, exist_ok=True)


class RemoteLease:
    """Use it as a context manager. StoreError naming the holder where another writer shows signs of life.

    `check` raises StoreError once another has taken the lease, since this one could not renew it for so long.
    """

    def __init__(
        self, files: Any, root: str, url: str, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S
    ) -> None:
        self._files, self._path, self._url = files, f"{root}/{NAME}", url
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self._mine: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "token": secrets.token_hex(8), "beat": 0,
        }  # fmt: skip
        self._lost, self._ended = False, threading.Event()
        self._heart = threading.Thread(target=self._beat, name="remote lease", daemon=True)

    def __enter__(self) -> "RemoteLease":
        while not self._take():
            seen = self._read()
            if seen is not None:
                self._watch(seen)
                self._files.rm_file(self._path)
        self._heart.start()
        return self

    def _take(self) -> bool:
        try:
            make_folder(self._files, self._path.rpartition("/")[0])
            self._files.pipe_file(self._path, json.dumps(self._mine).encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def _read(self) -> bytes | None:
        try:
            return self._files.cat_file(self._path)
        except FileNotFoundError:
            return None

    def _watch(self, seen: bytes) -> None:
        """Return when the lease did not change for `stale_s`."""
        log.info("%s: waiting %g s for a sign of its writer", self._url, self._stale_s)
        end = time.monotonic() + self._stale_s
        while time.monotonic() < end:
            time.sleep(self._stale_s / 10)
            now = self._read()
            if now != seen:
                holder = json.loads(now or b"{}")
                raise StoreError(
                    f"{self._url} is being written by process {holder.get('pid')} on {holder.get('host')}; wait for it "
                    "or stop it"
                )

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            try:
                if not self._is_mine():
                    self._lost = True
                    return
                self._mine["beat"] += 1
                self._files.pipe_file(self._path, json.dumps(self._mine).encode())
            except Exception as error:  # whatever the file system's package raises; it may pass
                log.warning("%s: the lease cannot be renewed: %s", self._url, error)

    def _is_mine(self) -> bool:
        return json.loads(self._read() or b"{}").get("token") == self._mine["token"]

    def check(self) -> None:
        if self._lost:
            raise StoreError(f"{self._url}: this writer was silent and another took over; start again to continue")

    def __exit__(self, *error) -> None:
        self._ended.set()
        self._heart.join()
        try:
            if not self._lost and self._is_mine():
                self._files.rm_file(self._path)
        except Exception as failed:  # the next writer sees that it stands still
            log.warning("%s: the lease cannot be removed: %s", self._url, failed)
