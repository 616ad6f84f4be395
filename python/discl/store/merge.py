"""Stores in, one store with every sample of theirs out: equal keys once, in the order of the stores given."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from discl.atomic import write_atomic
from discl.errors import StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine
from discl.store.columns import SCHEMA
from discl.store.home import Home
from discl.store.index import open_index
from discl.store.reader import Store
from discl.store.records import records
from discl.store.remote import is_url
from discl.store.writer import StoreWriter

log = logging.getLogger(__name__)

Bytes = tuple[int, int] | None  # length and CRC32C of an image


def merge(
    paths: Sequence[str | os.PathLike], into: str | os.PathLike, shard_bytes: int, on_event: OnEvent = ignore
) -> Store:
    """Copy the samples of the stores at `paths` into the store `into`, made if absent; a killed call goes on.

    All may be folders or URLs. A key that has an image in one store and none in another keeps its image. Selections
    with one rule become one, run records and quarantine lines come along. StoreError, before anything is written, for
    a key with different bytes in two stores, and for one that has an image, but none in `into`. About 200 bytes of
    memory per key.
    """
    stores = [Store(path) for path in paths]
    if _place(into) in {_place(store.name) for store in stores}:
        raise StoreError(f"{into} is one of the stores to merge; give --into another place")
    if not is_url(into):
        _merge(stores, Path(into), shard_bytes, on_event, None)
    else:
        with Home(os.fspath(into)) as home:
            _merge(stores, home.folder, shard_bytes, on_event, home.send)
    return Store(into)


def _place(path: str | os.PathLike) -> str:
    return os.fspath(path).rstrip("/") if is_url(path) else str(Path(path).resolve())


def _merge(
    stores: Sequence[Store], into: Path, shard_bytes: int, on_event: OnEvent, on_sealed: Callable[[int], None] | None
) -> None:
    there = [Store(into)] if (into / "manifest").is_dir() else []
    homes = _homes([*there, *stores])
    _refuse_bare(there, homes)
    _warn_of_mixtures([*there, *stores])
    meter = Meter("merge", sum(map(len, stores)), on_event)
    columns = _user_columns(stores)
    with StoreWriter(into, "merged", shard_bytes=shard_bytes, user_columns=columns, on_sealed=on_sealed) as writer:
        for store in stores:
            for shard in store.shards:
                for record in records(store.local(shard), shard):
                    key = record.row["key"]
                    if homes[key][0] == store.name and key not in writer.keys:
                        writer.append(record.row, record.image, record.extension, record.embedding)
                    meter.advance()
    _merge_selections(Store(into), stores)
    for store in stores:
        _bring_records(store, into)


def _warn_of_mixtures(stores: Sequence[Store]) -> None:
    """Slots and CPU threads are in the last bits of images: who merges parts of one recipe may want them equal."""
    found: dict[str, set[tuple[Any, Any]]] = {}
    for store in stores:
        for name in store.names("runs"):
            try:
                run = json.loads(store.file(f"runs/{name}") or b"{}")
            except ValueError:
                continue
            if run.get("slots") and not (run.get("hardware") or {}).get("gpus"):
                found.setdefault(run.get("recipe_digest", ""), set()).add((run["slots"], run.get("threads")))
    for recipe, ways in found.items():
        if len(ways) > 1:
            shown = ", ".join(f"{slots} slots and {threads} CPU threads" for slots, threads in sorted(ways, key=str))
            log.warning("recipe %s was made with %s: images may differ in their last bits", recipe, shown)


def _homes(stores: Sequence[Store]) -> dict[str, tuple[str, Bytes]]:
    """Which store gives a key: the first that has an image for it, else the first."""
    homes: dict[str, tuple[str, Bytes]] = {}
    for store in stores:
        for batch in store.scan(["key", "length", "crc32c"]):
            for row in batch.to_pylist():
                found: Bytes = None if row["length"] is None else (row["length"], row["crc32c"])
                home, known = homes.get(row["key"], (store.name, None))
                if None not in (found, known) and found != known:
                    raise StoreError(
                        f"sample {row['key']} has different bytes in {home} and {store.name}; "
                        "remove it from one of them (`discl store forget`)"
                    )
                if row["key"] not in homes or known is None:
                    homes[row["key"]] = (home if found is None else store.name, found)
    return homes


def _refuse_bare(there: Sequence[Store], homes: dict[str, tuple[str, Bytes]]) -> None:
    """A store's rows are not written over, so an image that one of them lacks has no place there."""
    for store in there:
        for key in (key for batch in store.scan(["key"]) for key in batch["key"].to_pylist()):
            if homes[key][0] != store.name:
                raise StoreError(
                    f"sample {key} has no image in {store.name} and one in {homes[key][0]}; merge both into a new store"
                )


def _user_columns(stores: Sequence[Store]) -> list[str]:
    indexes = (open_index(store.path, shard) for store in stores for shard in store.shards)  # local by now
    names = dict.fromkeys(name for index in indexes for name in index.schema_arrow.names)
    return [name for name in names if name not in SCHEMA.names]


def _merge_selections(merged: Store, stores: Sequence[Store]) -> None:
    """One selection of each name, where all that have it were chosen by one rule."""
    named = {store.name: _selections(store) for store in [merged, *stores]}
    for name in sorted(set().union(*(_selections(store) for store in stores))):
        having = [store for store in [merged, *stores] if name in named[store.name]]
        rules = {json.dumps(store.selection_rule(name), sort_keys=True): store.selection_rule(name) for store in having}
        if len(rules) > 1:
            log.warning("selection %r was chosen by different rules: it is left out; choose anew", name)
            continue
        keys = {key for store in having for key in store.selection(name)}
        merged.write_selection(name, keys, next(iter(rules.values())))


def _selections(store: Store) -> set[str]:
    return {Path(name).stem for name in store.names("selections") if name.endswith(".parquet")}


def _bring_records(source: Store, into: Path) -> None:
    for name in source.names("runs"):
        if name.endswith((".json", ".hard.txt")) and not (into / "runs" / name).exists():
            write_atomic(into / "runs" / name, source.file(f"runs/{name}") or b"{}")
    lines = (source.file("quarantine.jsonl") or b"").decode(errors="replace").splitlines()
    Quarantine(into, 1, 1.0).record(filter(None, map(_bad_input, lines)))


def _bad_input(line: str) -> tuple[str, str] | None:
    """Path and reason; None for a line that a crash has torn."""
    try:
        found = json.loads(line)
        return found["path"], found["reason"]
    except (ValueError, KeyError, TypeError):
        return None
