"""Scored samples in, sealed shards out. What was appended survives a kill and is never made again."""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from discl.errors import StoreError
from discl.store.columns import check_types, check_user_columns, complete_row
from discl.store.encode import FORMATS
from discl.store.lock import WriterLock
from discl.store.manifest import FOLDERS
from discl.store.reader import Store
from discl.store.shard import OpenShard, next_number, unsealed_numbers

log = logging.getLogger(__name__)


@contextmanager
def _told(action: str) -> Iterator[None]:
    """What the system refuses and what reads back wrong, as a StoreError that says what was being done."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StoreError(f"cannot {action}: {error}; what was written before is kept, start again") from error


class StoreWriter:
    """Appends samples to the store at `path` (made if absent); use it as a context manager.

    Entering takes the store's lock and recovers what a killed writer left: `keys` then holds every key in
    the store. Leaving seals the open shard, also on an exception. A shard is sealed when it reaches
    `shard_bytes`, or when it is older than `shard_seconds` (0: never). Appended samples are fsynced every
    `sync_samples` or `sync_seconds`, whichever is first. Raises StoreError for a second writer, a folder
    that cannot be written, and rows that do not fit the index.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        run_id: str,
        *,
        shard_bytes: int,
        shard_seconds: float = 0,
        embeddings: bool = True,
        user_columns: Iterable[str] = (),
        sync_samples: int = 64,
        sync_seconds: float = 10.0,
    ) -> None:
        self.root = Path(path)
        self.run_id = run_id
        self.shard_bytes, self.shard_seconds = shard_bytes, shard_seconds
        self.embeddings, self.user_columns = embeddings, check_user_columns(user_columns)
        self.sync_samples, self.sync_seconds = sync_samples, sync_seconds
        self.keys: set[str] = set()
        self._shard: OpenShard | None = None
        self._unsynced, self._synced = 0, time.monotonic()

    def __enter__(self) -> "StoreWriter":
        try:
            for folder in FOLDERS:
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            self._lock = WriterLock(self.root)
        except OSError as error:
            raise StoreError(f"cannot write to the store {self.root}: {error.strerror} ({error.filename})") from error
        try:
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _recover(self) -> None:
        self.keys = set(Store(self.root).keys())
        for number in unsealed_numbers(self.root):
            self._seal()  # at most one shard is ever unsealed, unless stores were mixed by hand
            with _told(f"recover shard {number:06d} of {self.root}"):
                self._shard = OpenShard(self.root, number)
            self.keys.update(self._shard.recovered)
            log.info("recovered %d samples of unsealed shard %06d", self._shard.samples, number)

    def unsealed_rows(self) -> list[dict]:
        """The rows that no sealed shard has yet: what a killed writer left, and what was appended since."""
        return [] if self._shard is None else list(self._shard.rows())

    def append(self, row: dict, image: bytes | None, extension: str, embedding: np.ndarray | None) -> None:
        """Add one sample. `row`: the index columns but shard, offset, length, crc32c; all but key may lack.

        image: encoded bytes, or None for a rejected or failed sample, which gets an index row only.
        embedding: float [D], kept as fp16, or None.
        """
        full = complete_row(row, self.user_columns, self.run_id)
        check_types(full)
        if full["key"] in self.keys:
            raise StoreError(f"sample {full['key']} is in the store already; skip the keys in StoreWriter.keys")
        if image is not None and (extension not in FORMATS or not image):
            raise StoreError(
                f"sample {full['key']}: {len(image)} bytes of {extension!r}; expected an encoded {FORMATS}"
            )
        with _told(f"append sample {full['key']} to {self.root}"):
            self._shard = self._shard or OpenShard(self.root, next_number(self.root))
            self._shard.append(full, image, extension, embedding if self.embeddings else None)
        self.keys.add(full["key"])
        self._unsynced += 1
        self._sync_or_seal()

    def _sync_or_seal(self) -> None:
        shard, now = self._shard, time.monotonic()
        assert shard is not None
        if shard.written_bytes >= self.shard_bytes or 0 < self.shard_seconds <= now - shard.opened:
            self._seal()
        elif self._unsynced >= self.sync_samples or now - self._synced >= self.sync_seconds:
            self.flush()

    def flush(self) -> None:
        """fsync everything appended so far: it survives a power cut."""
        if self._shard is not None:
            with _told(f"sync {self.root}"):
                self._shard.sync()
        self._unsynced, self._synced = 0, time.monotonic()

    def _seal(self) -> None:
        if self._shard is None:
            return
        shard, self._shard = self._shard, None
        with _told(f"seal shard {shard.number:06d} of {self.root}"):
            shard.seal(self.run_id)
        self._unsynced, self._synced = 0, time.monotonic()
        log.info("sealed shard %06d: %d samples", shard.number, shard.samples)

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self._seal()
        except StoreError:
            if kind is None:
                raise
            log.exception("the shard stays unsealed; the next writer recovers it")
        finally:
            self._lock.release()
