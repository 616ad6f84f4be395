"""Real images in a store: a DataTable in, shards that are read like synthetic ones out, and the table back.

Small files cost a metadata request each; in shards they are read by offset, and a store may lie behind a URL.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from discl._C import image_header
from discl.data.images import decode_image
from discl.data.table import SPLITS, DataTable, Packed
from discl.errors import DataError
from discl.progress import Meter, OnEvent, ignore
from discl.store import Store, StoreWriter
from discl.store.columns import SCHEMA

REAL = 100  # the level of a real image
MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PN": "png", b"RIF": "webp"}
COLUMNS = ("source_id", "class_id", "class_name", "level", "split")


def pack(table: DataTable, path, shard_bytes: int = 256 << 20, on_event: OnEvent = ignore) -> Store:
    """Write every image of `table` to the store at `path`, or those that it lacks; use it as data.kind = "store".

    Plain JPEG, PNG and WebP files go in as they are; all else becomes the PNG of what it decodes to, so that
    training sees the same pixels. `on_event` gets progress. Raises DataError for an image that cannot be
    read, StoreError for a folder that cannot be written.
    """
    meter = Meter("pack", len(table), on_event)
    user = ("split", *table.columns)
    with StoreWriter(path, "pack", shard_bytes=shard_bytes, embeddings=False, user_columns=user) as writer:
        for row, name in enumerate(table.ids):
            data = _file(table.paths[row])
            key = hashlib.blake2b(name.encode() + b"\0" + data, digest_size=16).hexdigest()
            if key not in writer.keys:
                writer.append(_index_row(table, row, key, data), *_storable(data, table.paths[row]), None)
            meter.advance()
    return Store(path)


def _index_row(table: DataTable, row: int, key: str, data: bytes) -> dict:
    label = int(table.labels[row])
    return {
        "key": key,
        "source_id": table.ids[row],
        "source_digest": hashlib.blake2b(data, digest_size=16).hexdigest(),
        "class_id": label,
        "class_name": table.class_names[label],
        "level": REAL,
        "status": "ok",
        "split": table.splits[row],
        **{name: values[row] for name, values in table.columns.items()},
    }


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _storable(data: bytes, name: str) -> tuple[bytes, str]:
    """Bytes of a format that stores hold, and its extension."""
    if image_header(data)[2]:
        return data, MAGIC[data[:3]]
    buffer = io.BytesIO()
    decode_image(data, name).save(buffer, "PNG")
    return buffer.getvalue(), "png"


def load(config) -> DataTable:
    """The table that was packed into the store at `config.root`, a folder or URL. An image that was packed again
    after a change counts as it was last. Raises StoreError for no store, DataError for one of other images."""
    store = Store(config.root)
    index = store.table
    if "split" not in index.column_names or any(level != REAL for level in index["level"].unique().to_pylist()):
        raise DataError(f"{config.root}: not a store of real images; make one with `discl store pack`")
    column = {name: index[name].to_pylist() for name in COLUMNS}
    rows = sorted({name: row for row, name in enumerate(column["source_id"])}.values())
    ids = [column["source_id"][row] for row in rows]
    user = [name for name in index.column_names if name not in SCHEMA.names and name != "split"]
    return DataTable(
        ids=ids,
        paths=[f"{store.name}#{name}" for name in ids],
        labels=np.array([column["class_id"][row] for row in rows], dtype=np.int64),
        splits=[column["split"][row] for row in rows],
        class_names=_class_names(column, rows, config.root),
        columns={name: index[name].take(rows).to_pylist() for name in user},
        packed=Packed(store, np.array(rows, dtype=np.int64)),
    )


def _class_names(column: dict[str, list], rows: list[int], root: str) -> tuple[str, ...]:
    names = {column["class_id"][row]: column["class_name"][row] for row in rows}
    odd = {column["split"][row] for row in rows} - set(SPLITS)
    if sorted(names) != list(range(len(names))) or odd:
        raise DataError(f"{root}: classes {sorted(names)} and splits {sorted(odd)} are not those of one packed table")
    return tuple(names[label] for label in range(len(names)))
