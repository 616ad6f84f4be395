"""Sealed shards of a worker's own store in, shards of this store out.

A worker of a run writes a store of its own in STORE/workers/<name>, whose shards the run's coordinator enters here,
each under the next number: numbers rise in the order of entering, so that a snapshot stays a prefix. A shard is linked
in, published, and only then removed there; after a crash in between its keys tell that it has been entered.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from discl.atomic import NO_LINKS, fsync_folder, write_atomic
from discl.store import manifest
from discl.store.index import read_index
from discl.store.records import records
from discl.store.shard import detach, parquet, unsealed_numbers

if TYPE_CHECKING:
    from discl.store.writer import StoreWriter

FOLDER = "workers"
LOST = ".lost"


def workers_folder(root: Path) -> Path:
    return root / FOLDER


def take_over(folder: Path) -> Path:
    """Move a worker's store away from the worker, who may be alive: what he writes from now on reaches nobody.

    A renamed folder stops him from sealing; the unsealed shard that he still has open is replaced by a copy.
    """
    lost = folder if folder.name.endswith(LOST) else folder.with_name(folder.name + LOST)
    if folder != lost and folder.exists():
        os.rename(folder, lost)
        fsync_folder(lost.parent)
    for name in (".writer.lock", ".writer.lease"):
        (lost / name).unlink(missing_ok=True)
    if (lost / "manifest").is_dir():
        for number in unsealed_numbers(lost):
            detach(lost, number)
    return lost


def adopt(writer: "StoreWriter", folder: Path) -> list[pa.Table]:
    """Enter every sealed shard of the store in `folder`; returns their index tables. Others may be reading here."""
    return [_adopt(writer, folder, shard) for shard in manifest.sealed_shards(folder)]


def _adopt(writer: "StoreWriter", folder: Path, shard: manifest.Shard) -> pa.Table:
    table = read_index(folder, shard)
    known = sum(key in writer.keys for key in table["key"].to_pylist())
    if not known:
        _enter(writer, folder, shard, table)
    elif known < len(table):  # not all of one crash: who has which sample decides one by one
        for record in records(folder, shard):
            if record.row["key"] not in writer.keys:
                writer.append(record.row, record.image, record.extension, record.embedding)
        writer.flush()
    os.unlink(folder / manifest.manifest_path(shard.number))
    for name in shard.files:
        (folder / name).unlink(missing_ok=True)
    return table


def _enter(writer: "StoreWriter", folder: Path, shard: manifest.Shard, table: pa.Table) -> None:
    number = writer.new_number()
    place = table.schema.get_field_index("shard")
    column = table["shard"]
    numbered = pc.if_else(pc.is_valid(column), pa.scalar(number, column.type), pa.scalar(None, column.type))
    index = parquet(table.set_column(place, table.schema.field(place), numbered))
    files = {manifest.index_path(number): manifest.data_entry(index)}
    write_atomic(writer.root / manifest.index_path(number), index)
    for path in (manifest.shard_path, manifest.embeddings_path):
        if path(shard.number) in shard.files:
            _link(folder / path(shard.number), writer.root / path(number))
            files[path(number)] = shard.files[path(shard.number)]
    manifest.publish(writer.root, number, shard.rows, shard.images, shard.run_id, files)
    writer.keys.add_column(table["key"].combine_chunks())
    writer.entered(number)


def _link(source: Path, target: Path) -> None:
    """The file under another name; a durable copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        part = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    fsync_folder(target.parent)
