"""Shards of a store in, others with the same samples (or fewer) in their place: all at once, or not at all.

.rewrite/            a store of its own, filled from the retired shards; a killed rewrite goes on in it
.rewrite/built.json  all shards are there: their files move to their places, which no manifest names yet
a history record     the new shards are in the manifest and the retired ones are not
settle               entries are written, retired entries and files removed; the next command finishes this too
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from discl.atomic import fsync_folder, write_atomic
from discl.errors import StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.store import history, manifest
from discl.store.columns import SCHEMA
from discl.store.home import Home
from discl.store.index import open_index
from discl.store.lock import WriterLock
from discl.store.records import Record, records
from discl.store.remote import RemoteStore, is_url
from discl.store.remote_history import records_there, send_rewrite, settle_there, sweep_there
from discl.store.settle import DATA, is_stranger, settle
from discl.store.shard import next_number
from discl.store.writer import StoreWriter

Keep = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Rewriting:
    """A store that is ours to rewrite. root: its folder; of a store behind a URL the one of `home`, which has the
    manifest and indexes and no more."""

    root: Path
    home: Home | None = None

    def rewrite(self, reason: str, retired: Sequence[manifest.Shard], keep: Keep, shard_bytes: int, **options) -> None:
        """As the function."""
        if self.home:
            options |= {"read": lambda root, shard: records_there(self.home, shard)}
            options |= {"before_entering": partial(send_rewrite, self.home)}
        rewrite(self.root, reason, retired, keep, shard_bytes, **options)
        if self.home:
            settle_there(self.home)

    def sweep(self) -> None:
        """Remove shards' files that no manifest names, and what is unfinished."""
        sweep(self.root)
        if self.home:
            sweep_there(self.home)


@contextmanager
def rewriting(path: str | os.PathLike) -> Iterator[Rewriting]:
    """The store in a folder or behind a URL, `exclusive`. StoreError if it cannot be."""
    if not is_url(path):
        with exclusive(Path(path)):
            yield Rewriting(Path(path))
        return
    RemoteStore(os.fspath(path)).shards()  # a URL that is no store stays as it is
    with Home(os.fspath(path)) as home, exclusive(home.folder, home.send):
        yield Rewriting(home.folder, home)


@contextmanager
def exclusive(root: Path, on_sealed: Callable[[int], None] | None = None) -> Iterator[None]:
    """The store is ours: no other writer, nothing unsealed, earlier rewrites settled. StoreError if it cannot be."""
    manifest.sealed_shards(root)  # a folder that is no store stays as it is
    with StoreWriter(root, "recovered", shard_bytes=1 << 62, on_sealed=on_sealed):
        pass  # seals what a killed writer left
    with locked(root):
        settle(root)
        yield


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """No other writer is there. StoreError if one is, for no store, and for what the system refuses meanwhile."""
    if not (root / "manifest").is_dir():
        raise StoreError(f"{root} is not a discl store (no manifest/); give one that `discl generate` made")
    try:
        lock = WriterLock(root)
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise StoreError(
            f"cannot rewrite {root}: {error.strerror or error}; nothing is lost: make room, or the folder writable, "
            "and give the command again"
        ) from error


def rewrite(
    root: Path,
    reason: str,
    retired: Sequence[manifest.Shard],
    keep: Keep,
    shard_bytes: int,
    parameters: str = "",
    on_event: OnEvent = ignore,
    read: Callable[[Path, manifest.Shard], Iterator[Record]] = records,
    user_columns: Sequence[str] | None = None,
    before_entering: Callable[[history.Rewrite], None] | None = None,
) -> None:
    """Inside `exclusive`: replace these shards by shards of about `shard_bytes` with the rows that `keep` accepts.

    The order of samples in the retired shards is kept. `read` gives them, `user_columns` are theirs (default: those in
    the indexes). `parameters` tells one rewrite from another, so that a killed
    one is only continued by the same command on the same store. `before_entering` is called when all new files are in
    their places and the history does not know of them yet.
    """
    before = [shard.digest for shard in manifest.sealed_shards(root)]
    facts = [reason, parameters, shard_bytes, before, [shard.number for shard in retired]]
    staging = _staging(root, blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest())
    if not (staging / "built.json").exists():
        columns = _user_columns(root, retired) if user_columns is None else user_columns
        meter = Meter(reason, sum(shard.rows for shard in retired), on_event)
        with StoreWriter(staging, "", shard_bytes=shard_bytes, user_columns=columns) as writer:
            for record in (record for shard in retired for record in read(root, shard)):
                if keep(record.row) and record.row["key"] not in writer.keys:
                    writer.append(record.row, record.image, record.extension, record.embedding)
                meter.advance()
        entries = [
            json.loads((staging / manifest.manifest_path(s.number)).read_bytes())
            for s in manifest.sealed_shards(staging)
        ]
        write_atomic(staging / "built.json", json.dumps(entries).encode())
    entries = json.loads((staging / "built.json").read_bytes())
    _move(staging, root, [name for entry in entries for name in entry["files"]])
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    done = history.Rewrite(reason, at, before, [(s.number, s.digest) for s in retired], entries)
    if before_entering:
        before_entering(done)
    history.record(root, done)
    settle(root)
    shutil.rmtree(staging)


def _staging(root: Path, identity: str) -> Path:
    """The folder that an earlier try of the same rewrite filled, or an empty one whose shards get new numbers."""
    staging = root / ".rewrite"
    job = staging / "job"
    if job.exists() and job.read_text() == identity:
        return staging
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "shards").mkdir(parents=True)
    first = next_number(root)
    if first:  # the writer numbers above every file that is there
        (staging / f"shards/{first - 1:06d}.reserved").touch()
    write_atomic(job, identity.encode())
    return staging


def _user_columns(root: Path, shards: Sequence[manifest.Shard]) -> list[str]:
    names = dict.fromkeys(name for shard in shards for name in open_index(root, shard).schema_arrow.names)
    return [name for name in names if name not in SCHEMA.names]


def _move(staging: Path, root: Path, names: list[str]) -> None:
    for name in names:
        if (staging / name).exists():
            os.rename(staging / name, root / name)
    for folder in DATA:
        fsync_folder(root / folder)


def sweep(root: Path) -> int:
    """Inside `exclusive`: remove shards' files that no manifest names, and what is unfinished; returns how many."""
    shutil.rmtree(root / ".rewrite", ignore_errors=True)
    live = {shard.number: shard for shard in manifest.sealed_shards(root)}
    files = [file for folder in DATA for file in (root / folder).glob("*") if is_stranger(file.name, live)]
    for file in files:
        file.unlink()
    return len(files)
