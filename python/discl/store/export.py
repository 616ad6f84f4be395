"""A store's selection in, a folder that others read out: WebDataset tars, an image folder or Parquet, and a data card.

The folder appears whole or not at all: it is written beside its place and renamed.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from discl.errors import StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.store.columns import PLACE_SCHEMA
from discl.store.data_card import Census, data_card
from discl.store.export_formats import Contents, HuggingFace, ImageFolder, Labels, WebDataset
from discl.store.index import open_index
from discl.store.reader import Store
from discl.store.records import Record, records

Sink = AbstractContextManager[Callable[[Record], None]]
FORMATS: dict[str, Callable[[Path, Contents], Sink]] = {
    "wds": WebDataset,
    "imagefolder": ImageFolder,
    "hf": HuggingFace,
}


def export(
    path: str | os.PathLike,
    out: str | os.PathLike,
    selection: str = "default",
    format: str = "wds",
    shard_bytes: int = 256_000_000,
    on_event: OnEvent = ignore,
) -> int:
    """Write the images of a selection to the new folder `out`; returns how many. Encoded bytes are copied as they are.

    StoreError for an unknown format or selection, an empty one, damage, or an `out` that exists. What a killed export
    left beside `out` is removed by the next.
    """
    if format not in FORMATS:
        raise StoreError(f"export format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    out = Path(out).absolute()
    if out.exists() or out.is_symlink():
        raise StoreError(f"{out} exists already; an export never overwrites: remove it or give another folder")
    store = Store(path)
    keys = set(store.selection(selection))
    if not keys:
        raise StoreError(f"selection {selection!r} of {path} is empty: there is nothing to export")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        columns = _columns(store)
        contents = Contents(Labels(_classes(store, keys)), columns, shard_bytes)
        census = _write(_chosen(store, keys, columns), len(keys), FORMATS[format](partial, contents), on_event)
        (partial / "README.md").write_text(data_card(store, selection, format, census), encoding="utf-8")
        os.sync()
        os.rename(partial, out)
    except OSError as error:
        raise StoreError(
            f"cannot export to {out}: {error.strerror or error}; free space or give another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(keys)


def _write(chosen: Iterator[Record], count: int, sink: Sink, on_event: OnEvent) -> Census:
    census, meter = Census(), Meter("export", count, on_event)
    with sink as add:
        for record in chosen:
            if record.image is None:
                raise StoreError(f"sample {record.row['key']} of the selection has no image; make the selection again")
            add(record)
            census.add(record.row, record.image)
            meter.advance()
    return census


def _chosen(store: Store, keys: set[str], columns: pa.Schema) -> Iterator[Record]:
    """In order; what a column of strings holds are strings, whatever kind a shard has them in."""
    texts = [field.name for field in columns if pa.types.is_string(field.type)]
    for shard in store.shards:
        for record in records(store.local(shard), shard, embeddings=False):
            if record.row["key"] in keys:
                given = {name: str(record.row[name]) for name in texts if record.row.get(name) is not None}
                yield replace(record, row=record.row | given)


def _classes(store: Store, keys: set[str]) -> set[tuple[Any, Any]]:
    """(class_id, class_name) of the chosen rows."""
    columns = ["key", "class_id", "class_name"]
    return {
        (number, name)
        for batch in store.scan(columns)
        for key, number, name in zip(*(batch[column].to_pylist() for column in columns), strict=True)
        if key in keys
    }


def _columns(store: Store) -> pa.Schema:
    """The rows' columns: SCHEMA's but the place, then the user's; a kind that is unknown or differs is a string."""
    kinds: dict[str, set[pa.DataType]] = {}
    for shard in store.shards:
        for field in open_index(store.path, shard).schema_arrow:
            kinds.setdefault(field.name, set()).add(field.type)
    known = {name: types - {pa.null()} for name, types in kinds.items() if name not in PLACE_SCHEMA.names}
    return pa.schema([(name, types.pop() if len(types) == 1 else pa.string()) for name, types in known.items()])
