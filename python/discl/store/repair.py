"""A damaged store in, a sound one out: samples whose every byte is right stay, the others are as if never made."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from discl import _C
from discl.atomic import write_atomic
from discl.errors import StoreError
from discl.progress import OnEvent, ignore
from discl.store import manifest
from discl.store.columns import PLACE_SCHEMA, user_columns_of
from discl.store.forget import prune
from discl.store.index import read_index
from discl.store.keys import Keys
from discl.store.records import Record, embedding_of, rows, shard_embeddings
from discl.store.remote import as_folder
from discl.store.rewrite import exclusive, locked, rewrite, sweep
from discl.store.verification import shard_problems

UNREADABLE = (OSError, RuntimeError, IndexError, ValueError, KeyError, StoreError)


COPY_FIRST = (  # merge would refuse what is damaged
    "copy its files to one with the storage's own tool (such as `aws s3 sync`), repair them there, and send them to a "
    "new URL with `discl store merge FOLDER --into URL`"
)


@dataclass(frozen=True)
class Repaired:
    """Samples of damaged shards: how many were kept, and how many are gone (-1: an index is lost, nobody knows)."""

    shards: int
    kept: int
    gone: int


def repair(path: str | os.PathLike, shard_bytes: int = 256_000_000, on_event: OnEvent = ignore) -> Repaired:
    """Replace every shard in which `verify` finds a problem by shards of what is whole in it; `verify` is silent then.

    Images are kept by the CRC32C in the index, or by that of their tar where the index is lost (rows without an image
    go with it); embeddings that changed are dropped. Samples that are gone leave the selections too; `discl generate`
    makes them again. A killed call is finished by the same call. StoreError for no store, and for what cannot be
    mended: a damaged record of a rewrite, or another writer at work.
    """
    root = as_folder(path, COPY_FIRST)
    with locked(root):
        _enter_again(root)
        damaged, whole = _damaged(root)
        if not damaged:
            return Repaired(0, 0, 0)
        samples = (record.row for shard in damaged for record in salvaged(root, shard))
        columns = dict.fromkeys(name for row in samples for name in user_columns_of(row))
        rewrite(
            root, "verify --repair", damaged, lambda row: row["key"] not in whole, shard_bytes,
            on_event=on_event, read=salvaged, user_columns=[*columns],
        )  # fmt: skip
        kept = sum(shard.rows for shard in manifest.sealed_shards(root)) - len(whole)
    with exclusive(root):
        sweep(root)
        prune(root)
    known = all(shard.rows for shard in damaged)
    return Repaired(len(damaged), kept, sum(shard.rows for shard in damaged) - kept if known else -1)


def _enter_again(root: Path) -> None:
    """Manifest entries that cannot be read are made anew from the files as they are; without a tar there is nothing."""
    for name in manifest.entry_names(os.listdir(root / "manifest")):
        path, number = root / "manifest" / name, int(name.partition(".")[0])
        try:
            manifest.parse(name, str(path), path.read_bytes())
        except manifest.Damaged:
            if (root / manifest.shard_path(number)).exists():
                write_atomic(path, _entry(root, number))
            else:
                path.unlink()


def _entry(root: Path, number: int) -> bytes:
    tar, index, vectors = (f(number) for f in (manifest.shard_path, manifest.index_path, manifest.embeddings_path))
    files = {tar: manifest.file_entry(root / tar, "crc32c")}
    for name in (index, vectors):
        if name == index or (root / name).exists():
            files[name] = manifest.file_entry(root / name) if (root / name).exists() else manifest.data_entry(b"")
    return manifest.entry(number, *_counts(root / index), "", files)


def _counts(index: Path) -> tuple[int, int]:
    """Rows and images; none where the index cannot be read: it is damaged then."""
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(index).read(["shard"], use_threads=False)
        return table.num_rows, table.num_rows - table["shard"].null_count
    except Exception:  # of a file that holds anything
        return 0, 0


def _damaged(root: Path) -> tuple[list[manifest.Shard], Keys]:
    """Shards with a problem, or with a key that a shard before has; and the keys of the others."""
    found, whole = [], Keys()
    for shard in manifest.sealed_shards(root):
        if shard_problems(root, shard):
            found.append(shard)
            continue
        keys = read_index(root, shard)["key"].to_pylist()
        if len(set(keys)) < len(keys) or any(key in whole for key in keys):
            found.append(shard)
        else:
            for key in keys:
                whole.add(key)
    return found, whole


def salvaged(root: Path, shard: manifest.Shard) -> Iterator[Record]:
    """The samples of a damaged shard that are as they were written."""
    try:
        read_index(root, shard)
    except UNREADABLE:
        yield from _of_tar(root, shard)
        return
    tar, names = _tar(root, shard)
    vectors, in_tar = _vectors(root, shard), set(names.values())
    for at, row in enumerate(rows(root, shard)):
        place = {name: row.pop(name) for name in PLACE_SCHEMA.names}
        name = names.get(place["offset"], "")
        vector = None if vectors is None else embedding_of(vectors[at])
        if place["shard"] is None:
            if f"{row['key']}.json" not in in_tar:
                yield Record(row, None, "", vector)
            continue
        try:
            image = tar.read(place["offset"], place["length"], place["crc32c"]) if tar else b""
        except UNREADABLE:
            continue
        if image and name.partition(".")[0] in ("", row["key"]):
            yield Record(row, image, name.partition(".")[2] or _kind(image), vector)


def _tar(root: Path, shard: manifest.Shard) -> tuple[_C.ShardReader | None, dict[int, str]]:
    """The tar, if it is there, and its members by offset, if their headers can be read."""
    try:
        tar = _C.ShardReader(str(root / manifest.shard_path(shard.number)))
    except UNREADABLE:
        return None, {}
    try:
        return tar, {offset: name for name, offset, _ in tar.members()}
    except UNREADABLE:
        return tar, {}


def _kind(image: bytes) -> str:
    return {b"\xff\xd8": "jpg", b"\x89P": "png"}.get(image[:2], "webp")


def _vectors(root: Path, shard: manifest.Shard) -> Any:
    name = manifest.embeddings_path(shard.number)
    try:
        same = name in shard.files and manifest.file_entry(root / name) == shard.files[name]
        return shard_embeddings(root, shard) if same else None
    except UNREADABLE:
        return None


def _of_tar(root: Path, shard: manifest.Shard) -> Iterator[Record]:
    """Without an index: what the tar's JSON members tell, if the tar is the one that was sealed."""
    path = root / manifest.shard_path(shard.number)
    if not path.exists() or manifest.file_entry(path, "crc32c") != shard.files[manifest.shard_path(shard.number)]:
        return
    members = _C.ShardReader(str(path)).members()
    with open(path, "rb") as file:
        for (name, *image), (_, *row) in zip(members[0::2], members[1::2], strict=True):
            known = orjson.loads(_piece(file, *row)) | {"run_id": shard.run_id}
            yield Record(known, _piece(file, *image), name.partition(".")[2], None)


def _piece(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
