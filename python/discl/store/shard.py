"""One unsealed shard: rows, images and embeddings in; tar, index, embeddings and manifest entry out.

A crash at any point leaves a state that `OpenShard` continues from:
    NNNNNN.tar.tmp + journal                  append: cut after the last sample that verifies, go on
    NNNNNN.tar + journal, no manifest entry   sealing had renamed the tar: it is renamed back first
    NNNNNN.tar + journal + manifest entry     sealing had finished: the journal is removed
"""

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discl import _C
from discl.atomic import fsync_folder, write_atomic
from discl.errors import StoreError
from discl.store import manifest
from discl.store.columns import index_table, row_json, tar_json


class OpenShard:
    """Number `number` of the store at `root`, made or recovered."""

    def __init__(self, root: Path, number: int) -> None:
        self.root, self.number = root, number
        self._sealed = root / manifest.shard_path(number)
        self._tar = self._sealed.with_suffix(".tar.tmp")
        self._journal = self._sealed.with_suffix(".journal")
        if self._sealed.exists() and not self._tar.exists():
            os.rename(self._sealed, self._tar)
        self._writer = _C.ShardWriter(str(self._tar), str(self._journal))
        fsync_folder(self._sealed.parent)
        self.opened = time.monotonic()
        self._width: int | None = None
        self.recovered = [self._remember(row, embedding) for row, embedding, _ in self._writer.records()]

    def _remember(self, row: bytes, embedding: bytes) -> str:
        self._width = len(embedding) // 2 or self._width
        return json.loads(row)["key"]

    @property
    def written_bytes(self) -> int:
        """Tar and journal so far: rows without an image fill a shard too."""
        return self._writer.written_bytes

    @property
    def samples(self) -> int:
        return self._writer.samples

    def append(self, row: dict, image: bytes | None, extension: str, embedding: np.ndarray | None) -> None:
        vector = b"" if embedding is None else self._checked(row["key"], embedding).tobytes()
        suffix, tar_row = ("", b"") if image is None else (extension, tar_json(row))
        self._writer.append(row["key"], suffix, image or b"", tar_row, row_json(row), vector)

    def _checked(self, key: str, embedding: np.ndarray) -> np.ndarray:
        vector = np.asarray(embedding, np.float16)
        if vector.ndim != 1 or not vector.size or self._width not in (None, vector.size):
            expected = self._width or "any"
            raise StoreError(f"sample {key}: embedding of shape {list(vector.shape)}, expected [{expected}] as before")
        self._width = vector.size
        return vector

    def rows(self) -> Iterator[dict]:
        """Every row so far, in the order of appending."""
        return (json.loads(row) for row, _, _ in self._writer.records())

    def sync(self) -> None:
        self._writer.sync()

    def seal(self, run_id: str) -> None:
        """Publish the shard, or remove it if it is empty. What is published was read back and verified."""
        if self.samples:
            self._publish(run_id)
        else:
            self._tar.unlink()
        self._journal.unlink()
        fsync_folder(self._journal.parent)

    def _publish(self, run_id: str) -> None:
        table, vectors = self._tables()
        self._writer.finish()
        files = [manifest.shard_path(self.number), manifest.index_path(self.number)]
        write_atomic(self.root / files[1], _parquet(table))
        if self._width:
            files.append(manifest.embeddings_path(self.number))
            write_atomic(self.root / files[2], _npy(vectors, self._width))
        os.rename(self._tar, self._sealed)
        fsync_folder(self._sealed.parent)
        images = table.num_rows - table["shard"].null_count
        manifest.publish(self.root, self.number, table.num_rows, images, run_id, files)

    def _tables(self) -> tuple[pa.Table, list[bytes]]:
        rows, vectors, places = zip(*self._writer.records(), strict=True)
        numbered = [place and (self.number, *place) for place in places]
        return index_table([json.loads(row) for row in rows], numbered), list(vectors)


def unsealed_numbers(root: Path) -> list[int]:
    """Shards that have to be continued: with a journal. Journals that sealing left behind are removed."""
    sealed = {shard.number for shard in manifest.sealed_shards(root)}
    for number in sorted(sealed & set(_numbers(root, ".journal"))):
        (root / manifest.shard_path(number)).with_suffix(".journal").unlink()
    return sorted(set(_numbers(root, ".journal")) - sealed)


def next_number(root: Path) -> int:
    """Above every number ever used, also by files that no manifest names: nothing is written over."""
    used = [*_numbers(root, ""), *(shard.number for shard in manifest.sealed_shards(root))]
    return max(used, default=-1) + 1


def _numbers(root: Path, suffix: str) -> Iterator[int]:
    for name in os.listdir(root / "shards"):
        stem = name.split(".")[0]
        if stem.isdecimal() and name.endswith(suffix):
            yield int(stem)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _npy(vectors: list[bytes], width: int) -> bytes:
    """fp16 [rows, width]; a row without an embedding is NaN."""
    missing = np.full(width, np.nan, np.float16).tobytes()
    buffer = io.BytesIO()
    stacked = np.frombuffer(b"".join(vector or missing for vector in vectors), np.float16)
    np.save(buffer, stacked.reshape(-1, width), allow_pickle=False)
    return buffer.getvalue()
