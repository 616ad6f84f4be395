"""Stores in, one store with every sample of theirs out: equal keys once, in the order of the stores given."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from discl.atomic import write_atomic
from discl.errors import StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine
from discl.store.columns import SCHEMA
from discl.store.index import open_index
from discl.store.reader import Store
from discl.store.records import records
from discl.store.writer import StoreWriter

log = logging.getLogger(__name__)

Bytes = tuple[int, int] | None  # length and CRC32C of an image


def merge(
    paths: Sequence[str | os.PathLike], into: str | os.PathLike, shard_bytes: int, on_event: OnEvent = ignore
) -> Store:
    """Copy the samples of the stores at `paths` into the store `into`, made if absent; a killed call goes on.

    A key that has an image in one store and none in another keeps its image. Selections with one rule become one,
    run records and quarantine lines come along. StoreError, before anything is written, for a key with different
    bytes in two stores. About 200 bytes of memory per key.
    """
    into = Path(into)
    stores = [Store(path) for path in paths]
    if into.resolve() in {store.path.resolve() for store in stores}:
        raise StoreError(f"{into} is one of the stores to merge; give --into another folder")
    there = [Store(into)] if (into / "manifest").is_dir() else []
    homes = _homes([*there, *stores])
    meter = Meter("merge", sum(map(len, stores)), on_event)
    with StoreWriter(into, "merged", shard_bytes=shard_bytes, user_columns=_user_columns(stores)) as writer:
        for store in stores:
            for shard in store.shards:
                for record in records(store.path, shard):
                    key = record.row["key"]
                    if homes[key][0] == store.name and key not in writer.keys:
                        writer.append(record.row, record.image, record.extension, record.embedding)
                    meter.advance()
    merged = Store(into)
    _merge_selections(merged, stores)
    for store in stores:
        _bring_records(store.path, into)
    return merged


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


def _user_columns(stores: Sequence[Store]) -> list[str]:
    shards = [(store.path, shard) for store in stores for shard in store.shards]
    names = dict.fromkeys(name for path, shard in shards for name in open_index(path, shard).schema_arrow.names)
    return [name for name in names if name not in SCHEMA.names]


def _merge_selections(merged: Store, stores: Sequence[Store]) -> None:
    """One selection of each name, where all that have it were chosen by one rule."""
    everywhere = [merged, *stores]
    for name in sorted({file.stem for store in stores for file in (store.path / "selections").glob("*.parquet")}):
        having = [store for store in everywhere if (store.path / f"selections/{name}.parquet").is_file()]
        rules = {json.dumps(store.selection_rule(name), sort_keys=True): store.selection_rule(name) for store in having}
        if len(rules) > 1:
            log.warning("selection %r was chosen by different rules: it is left out; choose anew", name)
            continue
        keys = {key for store in having for key in store.selection(name)}
        merged.write_selection(name, keys, next(iter(rules.values())))


def _bring_records(source: Path, into: Path) -> None:
    for file in sorted((source / "runs").glob("*.json")):
        if not (into / "runs" / file.name).exists():
            write_atomic(into / "runs" / file.name, file.read_bytes())
    quarantine = source / "quarantine.jsonl"
    if quarantine.is_file():
        lines = [json.loads(line) for line in quarantine.read_text(encoding="utf-8").splitlines()]
        Quarantine(into, 1, 1.0).record([(line["path"], line["reason"]) for line in lines])
