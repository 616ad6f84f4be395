"""Scored samples in, sealed shards out. What was made durable survives a power cut and is never made again."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa

from discl.atomic import remove_leftovers
from discl.disk_space import remedy
from discl.errors import StoreError
from discl.store.adoption import adopt, take_over, workers_folder
from discl.store.columns import RowEncoder, check_user_columns
from discl.store.encode import FORMATS
from discl.store.keys import Keys
from discl.store.lock import WriterLock
from discl.store.manifest import FOLDERS
from discl.store.reader import Store
from discl.store.shard import OpenShard, detach, next_number, unsealed_numbers

log = logging.getLogger(__name__)

# What the system refuses, what reads back wrong, and what does not fit an index.
REFUSALS = (OSError, RuntimeError, pa.ArrowException)


def _refuse(action: str, error: BaseException, root: Path) -> NoReturn:
    advice = remedy(error, root)
    raise StoreError(f"cannot {action}: {error}{advice}; what was written before is kept, start again") from error


class StoreWriter:
    """Appends samples to the store at `path` (made if absent); use it as a context manager.

    Entering takes the store's lock and recovers what a killed writer left: `keys` then holds every key in the
    store. Leaving seals the open shard, also on an exception.

    `append` hands a sample to threads that write and fsync it: it is durable after `sync_samples` more or after
    `sync_seconds`, whichever is first, or when `flush` returns. What the disk refuses is raised by the next call;
    the samples taken before stay in memory and are tried again. A shard is sealed, in a thread too, when it
    reaches `shard_bytes`, or when it is older than `shard_seconds` (0: never); `on_sealed(number)` is called in that
    thread. Raises StoreError for a second
    writer, a folder that cannot be written, and rows that do not fit the index.
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
        on_sealed: Callable[[int], None] | None = None,
    ) -> None:
        self.root = Path(path)
        self.run_id = run_id
        self.shard_bytes, self.shard_seconds = shard_bytes, shard_seconds
        self.embeddings = embeddings
        self.sync_samples, self.sync_seconds = sync_samples, sync_seconds
        self.keys = Keys()
        self._user_columns = check_user_columns(user_columns)
        self._rows = RowEncoder(self._user_columns, run_id)
        self._shard: OpenShard | None = None
        self._next = 0
        self._on_sealed = on_sealed
        self._sealing: Future[None] | None = None
        self._sealer = ThreadPoolExecutor(1, "seal")

    def __enter__(self) -> "StoreWriter":
        try:
            for folder in FOLDERS:
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            self._lock = WriterLock(self.root, self.run_id)
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            advice = remedy(error, self.root)
            raise StoreError(f"cannot write to the store {self.root}: {error.strerror}{place}{advice}") from error
        try:
            self._recover()
        except BaseException:
            self._leave()
            raise
        return self

    def _recover(self) -> None:
        for name in ("manifest", "index", "embeddings"):  # only who has the lock writes there
            remove_leftovers(self.root / name, older_than_s=0)
        for column in Store(self.root).scan(["key"]):
            self.keys.add_column(column["key"])
        self._next = next_number(self.root)
        for number in unsealed_numbers(self.root):  # one was open, another may have been about to be sealed
            self._seal()
            if self._lock.taken_over:
                detach(self.root, number)
            self._shard = self._open(number)
            for row in self._shard.rows():
                self.keys.add(row["key"])
            log.info("recovered %d samples of unsealed shard %06d", self._shard.samples, number)
        for folder in sorted(workers_folder(self.root).glob("*/")):  # of a run that was killed
            self.adopt_lost(folder)

    def adopt(self, folder: Path) -> list[pa.Table]:
        """Enter the sealed shards of a worker's store, see `discl.store.adoption`; returns their index tables."""
        self._lock.check()
        try:
            return adopt(self, folder)
        except REFUSALS as error:
            _refuse(f"enter the shards of {folder} into {self.root}", error, self.root)

    def adopt_lost(self, folder: Path) -> list[pa.Table]:
        """The same of a worker who is no more, or no longer trusted: with what he had not sealed."""
        self._lock.check()
        try:
            lost = take_over(folder)
            if (lost / "manifest").is_dir():
                with StoreWriter(lost, self.run_id, shard_bytes=self.shard_bytes, embeddings=self.embeddings):
                    pass
            tables = adopt(self, lost) if (lost / "manifest").is_dir() else []
            shutil.rmtree(lost, ignore_errors=True)
        except REFUSALS as error:
            _refuse(f"recover what the worker in {folder} had written", error, self.root)
        return tables

    @property
    def youngest(self) -> int:
        """The number of the latest shard; -1 before the first."""
        return self._next - 1

    def new_number(self) -> int:
        """A shard number that nobody else has or gets."""
        self._next += 1
        return self._next - 1

    def unsealed_rows(self) -> list[dict]:
        """The rows that no sealed shard has yet: what a killed writer left, and what was appended since."""
        self._wait_sealed()
        return [] if self._shard is None else list(self._shard.rows())

    def _open(self, number: int) -> OpenShard:
        try:
            return OpenShard(self.root, number, self._user_columns, self.sync_samples, self.sync_seconds)
        except REFUSALS as error:
            _refuse(f"open shard {number:06d} of {self.root}", error, self.root)

    def append(self, row: dict, image: bytes | None, extension: str, embedding: np.ndarray | None) -> None:
        """Add one sample. `row`: the index columns but shard, offset, length, crc32c; all but key may lack.

        image: encoded bytes, or None for a rejected or failed sample, which gets an index row only.
        embedding: float [D], kept as fp16, or None.
        """
        self._lock.check()
        encoded = self._rows.encode(row)
        key = row["key"]
        if key in self.keys:
            raise StoreError(f"sample {key} is in the store already; skip the keys in StoreWriter.keys")
        if image is not None and (extension not in FORMATS or not image):
            raise StoreError(f"sample {key}: {len(image)} bytes of {extension!r}; expected an encoded {FORMATS}")
        shard = self._shard or self._next_shard()
        try:
            written = shard.append(encoded, image, extension, embedding if self.embeddings else None)
        except REFUSALS as error:
            _refuse(f"append sample {key} to {self.root}", error, self.root)
        self.keys.add(key)
        if written >= self.shard_bytes or 0 < self.shard_seconds <= time.monotonic() - shard.opened:
            self._seal()

    def _next_shard(self) -> OpenShard:
        self._raise_failed_seal()
        self._shard = self._open(self.new_number())
        return self._shard

    def flush(self) -> None:
        """Return when everything appended so far survives a power cut."""
        self._wait_sealed()
        if self._shard is not None:
            try:
                self._shard.flush()
            except REFUSALS as error:
                _refuse(f"sync {self.root}", error, self.root)

    def seal(self) -> None:
        """Seal what has been appended, and return when readers see it."""
        self._seal()
        self._wait_sealed()

    def _seal(self) -> None:
        """Seal the open shard behind the caller's back, when the one before it is sealed."""
        if self._shard is None:
            return
        self._wait_sealed()
        shard, self._shard = self._shard, None
        self._sealing = self._sealer.submit(self._publish, shard)

    def _publish(self, shard: OpenShard) -> None:
        self._lock.check()
        try:
            shard.seal(self.run_id)
        except REFUSALS as error:
            _refuse(f"seal shard {shard.number:06d} of {self.root}", error, self.root)
        log.info("sealed shard %06d: %d samples", shard.number, shard.samples)
        self.entered(shard.number)

    def entered(self, number: int) -> None:
        """A shard is in the manifest."""
        if self._on_sealed:
            self._on_sealed(number)

    def _wait_sealed(self) -> None:
        """StoreError, for ever, once a seal failed: a later shard must not enter the manifest before an earlier."""
        if self._sealing is not None:
            self._sealing.result()

    def _raise_failed_seal(self) -> None:
        if self._sealing is not None and self._sealing.done():
            self._sealing.result()

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.seal()
        except StoreError:
            if kind is None:
                raise
            log.exception("the shard stays unsealed; the next writer recovers it")
        finally:
            self._leave()

    def _leave(self) -> None:
        """Nothing of ours touches a file once the lock is free."""
        self._sealer.shutdown()
        if self._shard is not None:
            self._shard.close()
        self._lock.release()
