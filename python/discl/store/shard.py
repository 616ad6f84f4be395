"""One unsealed shard: rows, images and embeddings in; tar, index, embeddings and manifest entry out.

A crash at any point leaves a state that `OpenShard` continues from:
    NNNNNN.tar.tmp + journal                  append: cut after the last sample that verifies, go on
    NNNNNN.tar + journal, no manifest entry   sealing had renamed the tar: it is renamed back first
    NNNNNN.tar + journal + manifest entry     sealing had finished: the journal is removed
"""

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from discl import _C
from discl.atomic import fsync_folder, write_atomic
from discl.errors import StoreError
from discl.store import history, manifest
from discl.store.columns import EncodedRow, check_key, split_lines, user_columns_of
from discl.store.embeddings import npy_header
from discl.store.unsealed_index import UnsealedIndex

FLOAT32 = np.dtype(np.float32)
# Columns that hardly repeat: a dictionary of their values costs time and space.
DISTINCT = {"key", "created_at", "noise_seed", "text_score", "image_score", "margin", "offset", "length", "crc32c"}


class OpenShard:
    """Number `number` of the store at `root`, made or recovered."""

    def __init__(
        self, root: Path, number: int, user_columns: Iterable[str], sync_samples: int, sync_seconds: float
    ) -> None:
        self.root, self.number = root, number
        self._sealed = root / manifest.shard_path(number)
        self._tar = self._sealed.with_suffix(".tar.tmp")
        self._journal = _journal(root, number)
        if self._sealed.exists() and not self._tar.exists():
            os.rename(self._sealed, self._tar)
        self._writer = _C.ShardWriter(str(self._tar), str(self._journal), sync_samples, sync_seconds)
        self.opened = time.monotonic()
        self.user_columns = dict.fromkeys(user_columns)
        if self.samples:  # a new shard's names become durable with its first samples
            fsync_folder(self._sealed.parent)
        self._shape: tuple[int, ...] | None = None  # of the embeddings that were checked
        self._index = UnsealedIndex()
        for row in self.rows():
            self.user_columns |= dict.fromkeys(user_columns_of(row))
            self._recover(row)

    def _recover(self, row: dict[str, Any]) -> None:
        try:
            self._index.recover(row)
        except StoreError as error:
            raise RuntimeError(f"{self._journal}: a record is no row of an index: {error}") from error

    def rows(self) -> Iterator[dict]:
        """Every row so far, in the order of appending."""
        return map(self._row, split_lines(self._writer.rows()))

    def _row(self, encoded: bytes) -> dict:
        """RuntimeError for what no writer journals, although its checksum fits."""
        try:
            row = orjson.loads(encoded)
            check_key(row["key"])
        except (ValueError, KeyError, TypeError, StoreError) as error:
            raise RuntimeError(f"{self._journal}: a record is no row of an index: {error}") from error
        return row

    @property
    def samples(self) -> int:
        return self._writer.samples

    def append(self, row: EncodedRow, image: bytes | None, extension: str, embedding: np.ndarray | None) -> int:
        """Take a sample: it is written behind, see _C.ShardWriter. What raises is not taken.

        Returns the bytes of tar and journal so far: rows without an image fill a shard too.
        """
        values, journalled, in_tar = row
        key = values["key"]
        vector = b"" if embedding is None else self._checked(key, embedding)
        if image is None:
            extension, image = "", b""
        written = self._writer.append(key, extension, image, in_tar, journalled, vector)
        self._index.append(values)
        return written

    def _checked(self, key: str, embedding: np.ndarray) -> np.ndarray:
        """fp16 [D], or float32, which becomes that on its way."""
        if embedding.__class__ is np.ndarray and embedding.dtype is FLOAT32 and embedding.shape == self._shape:
            return np.ascontiguousarray(embedding)
        vector, width = np.asarray(embedding, order="C"), self._writer.embedding_bytes // 2
        if vector.dtype != FLOAT32:
            vector = vector.astype(np.float16)
        if vector.ndim != 1 or not vector.size or width not in (0, vector.size):
            raise StoreError(
                f"sample {key}: embedding of shape {list(vector.shape)}, expected [{width or 'any'}] as before"
            )
        self._shape = vector.shape
        return vector

    def flush(self) -> None:
        """Return when everything appended survives a power cut."""
        self._writer.flush()

    def seal(self, run_id: str) -> None:
        """Publish the shard, or remove it if it is empty; either way it is closed."""
        try:
            if self.samples:
                self._publish(run_id)
            else:
                self._tar.unlink()
            self._journal.unlink()
            fsync_folder(self._journal.parent)
        finally:
            self.close()

    def close(self) -> None:
        """Write what was appended and leave the files to the next writer."""
        self._writer.close()

    def _publish(self, run_id: str) -> None:
        """The tar becomes durable while the embeddings are written."""
        number, writer = self.number, self._writer
        index, vectors = manifest.index_path(number), manifest.embeddings_path(number)
        with ThreadPoolExecutor(1, "seal") as beside:
            embeddings = beside.submit(self._write_embeddings) if writer.embedding_bytes else None
            writer.finish()
            table = self._index.table(number, writer.places(), self._user_values())
            files = {index: _written(self.root / index, parquet(table))}
        if embeddings:
            files[vectors] = embeddings.result()
        os.rename(self._tar, self._sealed)
        fsync_folder(self._sealed.parent)
        files = {manifest.shard_path(number): manifest.tar_entry(writer.tar_bytes, writer.tar_crc), **files}
        images = table.num_rows - table["shard"].null_count
        manifest.publish(self.root, number, table.num_rows, images, run_id, files)

    def _user_values(self) -> dict[str, list[Any]]:
        """The user's columns, as JSON has them."""
        rows = list(self.rows()) if self.user_columns else []
        return {name: [row.get(name) for row in rows] for name in self.user_columns}

    def _write_embeddings(self) -> dict[str, Any]:
        header = npy_header(self.samples, self._writer.embedding_bytes // 2)
        path = self.root / manifest.embeddings_path(self.number)
        return _written(path, header, self._writer.embeddings().data)


def _written(path: Path, *pieces: bytes | memoryview) -> dict[str, Any]:
    """The manifest's entry of a file, which is written."""
    write_atomic(path, *pieces)
    return manifest.data_entry(*pieces)


def unsealed_numbers(root: Path) -> list[int]:
    """Shards that have to be continued: with a journal. What sealing left behind is removed, and tars without one.

    (A journal is durable before any of its samples, so that in such a tar nothing ever was.)
    """
    sealed = {shard.number for shard in manifest.sealed_shards(root)}
    journals = set(_numbers(root, ".journal"))
    for number in journals & sealed:
        _journal(root, number).unlink()
    for number in set(_numbers(root, ".tar.tmp")) - (journals - sealed):
        _journal(root, number).with_suffix(".tar.tmp").unlink()
    return sorted(journals - sealed)


def detach(root: Path, number: int) -> None:
    """Put copies in the place of an unsealed shard's files: who still has the old ones open writes to nobody."""
    journal = _journal(root, number)
    for path in (journal, journal.with_suffix(".tar.tmp"), journal.with_suffix(".tar")):
        if path.exists():
            write_atomic(path, path.read_bytes())


def _journal(root: Path, number: int) -> Path:
    return (root / manifest.shard_path(number)).with_suffix(".journal")


def next_number(root: Path) -> int:
    """Above every number ever used, also by files that no manifest names and by shards that were replaced: nothing is
    written over, and nothing new is taken for what is gone."""
    retired = (number for rewrite in history.rewrites(root) for number, _ in rewrite.retired)
    used = [*_numbers(root, ""), *(shard.number for shard in manifest.sealed_shards(root)), *retired]
    return max(used, default=-1) + 1


def _numbers(root: Path, suffix: str) -> Iterator[int]:
    for name in os.listdir(root / "shards"):
        stem = name.split(".")[0]
        if stem.isdecimal() and name.endswith(suffix):
            yield int(stem)


def parquet(table: pa.Table) -> memoryview:
    """An index as its file holds it."""
    buffer = pa.BufferOutputStream()  # a file of Python's would ask for the GIL at every page
    repeating = [name for name in table.column_names if name not in DISTINCT]
    pq.write_table(table, buffer, compression="zstd", use_dictionary=repeating)
    return memoryview(buffer.getvalue())
