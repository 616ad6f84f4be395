"""A store's folder in, its index as an Arrow table and its images by key out: a view that never changes."""

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from discl import _C
from discl.atomic import write_atomic
from discl.errors import StoreError
from discl.store import history, index, manifest
from discl.store.columns import PLACE_SCHEMA, SCHEMA, check_key
from discl.store.embeddings import read_embeddings
from discl.store.index import Filter
from discl.store.keys import Keys
from discl.store.remote import CACHE_BYTES, RemoteStore, is_url
from discl.store.selections import decode_rule, decode_selection, encode_selection, write_selection_file

_SELECTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Store:
    """The sealed shards of the store at `path`, or exactly those of the snapshot `at`.

    Shards that are sealed later do not appear: open the store again to see them. Safe to share between
    threads, to fork and to send to another process. Raises StoreError when `path` is no store, its manifest
    or index is damaged, or its format is newer.

    path: a folder, or a URL that fsspec knows (s3://..., gs://..., https://...; it may need fsspec's package for
    it). What is read of a remote store is copied to `cache` (default: the user's cache folder), checked, shared by
    processes, and evicted above `cache_bytes`: let an epoch's shards fit, or each epoch copies them again.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        at: str | None = None,
        cache: str | os.PathLike | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise StoreError(f"Store({path!r}): give the folder or URL of a store")
        self._remote = RemoteStore(os.fspath(path), cache, cache_bytes) if is_url(path) else None
        self.path = self._remote.folder if self._remote else Path(path)
        self.name = self._remote.url if self._remote else str(self.path)
        shards = self._remote.shards() if self._remote else manifest.sealed_shards(self.path)
        self.shards = shards if at is None else manifest.shards_at(shards, at, self._past())
        self._readers: dict[int, _C.ShardReader] = {}

    def _past(self) -> list[history.Rewrite]:
        return self._remote.rewrites() if self._remote else history.rewrites(self.path)

    def __reduce__(self):
        if self._remote:
            return Store, (self._remote.url, self.snapshot(), self._remote.cache, self._remote.limit)
        return Store, (self.path, self.snapshot())

    @cached_property
    def _numbered(self) -> dict[int, manifest.Shard]:
        return {shard.number: shard for shard in self.shards}

    def _bring(self, names: Iterable[tuple[int, str]]) -> None:
        """Have these files of shards on the local disk."""
        if self._remote:
            self._remote.bring([(name, self._numbered[number].files[name]) for number, name in names])

    def local(self, shard: manifest.Shard) -> Path:
        """Where the shard's files lie; those of a remote store are copied there and checked."""
        self._bring((shard.number, name) for name in shard.files)
        return self.path

    def names(self, folder: str) -> list[str]:
        """The files in one of the store's folders, sorted; none where there is no such folder."""
        if self._remote:
            return sorted(self._remote.names(folder))
        return sorted(file.name for file in (self.path / folder).glob("*"))

    def file(self, name: str) -> bytes | None:
        """A small file that is no shard's: a run's record, the quarantine; None where it is not there."""
        try:
            return self._remote.read(name) if self._remote else (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def _bring_index(self) -> None:
        self._bring((shard.number, manifest.index_path(shard.number)) for shard in self.shards)

    def __len__(self) -> int:
        """Index rows, those without an image included."""
        return sum(shard.rows for shard in self.shards)

    def snapshot(self) -> str:
        """The id of these shards; `Store(path, at=id)` opens exactly them, however far the store grows."""
        return manifest.snapshot_id(self.shards)

    @cached_property
    def table(self) -> pa.Table:
        """The index, one row per sample in the order of appending: SCHEMA's columns, then the user's.

        All of it, in memory (about 400 bytes per sample): `scan` reads millions of rows piece by piece.
        """
        self._bring_index()
        parts = [
            SCHEMA.empty_table(),
            *(index.read_index(self.path, shard) for shard in self.shards),
        ]
        try:
            return pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as error:
            raise StoreError(f"{self.path}: a user column changes its type between shards: {error}") from error

    def scan(
        self, columns: Sequence[str] | None = None, filter: Filter | None = None, rows: int = 1 << 16
    ) -> Iterator[pa.RecordBatch]:
        """Pieces of the index of at most `rows` rows, in order; only one is in memory at a time.

        columns: their names (default: all of SCHEMA's and of the shard's own user columns); a user column that a
        shard lacks is null there. filter: as pyarrow.parquet's `filters`, such as [("level", "in", [0, 10])].
        Raises StoreError for a column that no shard has and for a damaged index.
        """
        self._bring_index()
        return index.scan(self.path, self.shards, columns, filter, rows)

    def keys(self) -> list[str]:
        """Every key, in the order of appending."""
        return [key for batch in self.scan(["key"]) for key in batch["key"].to_pylist()]

    @cached_property
    def _key_rows(self) -> Keys:
        """A key's number in it is its row."""
        keys = Keys()
        for batch in self.scan(["key"]):
            if keys.add_column(batch["key"]) < len(batch):
                raise StoreError(f"{self.path}: a key occurs twice; run `discl store verify {self.path}`")
        return keys

    def rows(self, keys: Iterable[str]) -> np.ndarray:
        """int64: the rows of these keys in `table`. StoreError for a key that is not in this snapshot."""
        keys = [check_key(key) for key in keys]
        rows = self._key_rows.numbers(keys)
        absent = np.flatnonzero(rows < 0)
        if len(absent):
            raise self._absent(keys[absent[0]])
        return rows

    def keys_at(self, rows: np.ndarray) -> list[str]:
        """The keys of these rows of `table`."""
        return self._key_rows.at(rows)

    def _absent(self, key: str) -> StoreError:
        return StoreError(f"sample {key} is not in {self.name} at {self.snapshot()}")

    @cached_property
    def _places(self) -> tuple[np.ndarray, ...]:
        """shard (-1: no image), offset, length, crc32c of every row: 24 bytes per sample."""
        fills = (-1, 0, 0, 0)
        parts = [
            [column.fill_null(fill).to_numpy() for column, fill in zip(batch.columns, fills, strict=True)]
            for batch in self.scan(PLACE_SCHEMA.names)
        ]
        columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True)) or (np.empty(0),) * 4
        expected = np.repeat([shard.number for shard in self.shards], [shard.rows for shard in self.shards])
        if np.any(columns[0][columns[0] != expected] != -1) or np.any(columns[1] < 0) or np.any(columns[2] < 0):
            raise StoreError(f"{self.path}: an index names places outside of its shard; run `discl store verify`")
        return columns

    def places(self, rows: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where the images of these rows lie: shard files; which of them, offset, length, crc32c, int64 [n] each.

        A row without an image is in a file that is not there.
        """
        shards, *columns = (column[rows] for column in self._places)
        numbers, which = np.unique(shards, return_inverse=True)
        names = [(number, manifest.shard_path(number)) for number in numbers.tolist()]
        self._bring(name for name in names if name[0] >= 0)
        return [str(self.path / name) for _, name in names], which, *(column.astype(np.int64) for column in columns)

    def _reader(self, number: int) -> _C.ShardReader:
        if number not in self._readers:
            name = manifest.shard_path(number)
            self._bring([(number, name)])
            self._readers[number] = _C.ShardReader(str(self.path / name))
        return self._readers[number]

    def read(self, key: str) -> bytes:
        """The encoded image, checked against its CRC32C. Raises StoreError when it is absent or damaged."""
        (row,) = self.rows([key])
        place = [int(column[row]) for column in self._places]
        if place[0] < 0:
            raise StoreError(f"sample {key} has no image: its status is {self._status(key)!r}")
        try:
            return self._read(*place)
        except (OSError, IndexError, RuntimeError) as error:
            raise StoreError(f"sample {key} cannot be read: {error}; run `discl store verify {self.name}`") from error

    def _read(self, shard: int, offset: int, length: int, crc: int) -> bytes:
        try:
            return self._reader(shard).read(offset, length, crc)
        except (OSError, IndexError, RuntimeError):
            if not self._remote:
                raise
        self._remote.drop(manifest.shard_path(shard))  # the copy is evicted or damaged: once more, with another
        self._readers.pop(shard, None)
        return self._reader(shard).read(offset, length, crc)

    def _status(self, key: str) -> str | None:
        found = self.scan(["status"], [("key", "=", key)])
        return next(batch["status"][0].as_py() for batch in found if len(batch))

    def image(self, key: str) -> np.ndarray:
        """The decoded image, uint8 [H, W, 3]. Raises StoreError as `read` does."""
        with Image.open(io.BytesIO(self.read(key))) as image:
            return np.array(image.convert("RGB"))

    def embeddings(self) -> np.ndarray:
        """float16 [rows, D], row by row with `table`; NaN where a sample has none. StoreError if none has."""
        parts = [self.shard_embeddings(shard) for shard in self.shards]
        widths = {part.shape[1] for part in parts if part is not None}
        if len(widths) != 1:
            raise StoreError(f"{self.path}: embeddings of widths {sorted(widths)}; expected one width in all shards")
        self._bring_index()
        rows = [index.open_index(self.path, shard).metadata.num_rows for shard in self.shards]
        blank = [np.full((count, *widths), np.nan, np.float16) for count in rows]
        return np.concatenate([empty if part is None else part for part, empty in zip(parts, blank, strict=True)])

    def shard_embeddings(self, shard: manifest.Shard) -> np.ndarray | None:
        """float16 [rows of the shard, D], mapped into memory; None for a shard without. StoreError where damaged."""
        name = manifest.embeddings_path(shard.number)
        if name not in shard.files:
            return None
        self._bring([(shard.number, name)])
        return read_embeddings(self.path / name, shard.rows)

    def selection(self, name: str) -> list[str]:
        """The keys of selection `name` that are in this snapshot, sorted."""
        chosen = np.array(self._selection(name)[0], dtype=object)
        return sorted(set(chosen[self._key_rows.numbers(chosen) >= 0]))

    def selection_rule(self, name: str) -> dict:
        """The rule that chose selection `name`, as it was given to `write_selection`."""
        return decode_rule(*self._selection_bytes(name))

    def _selection(self, name: str) -> tuple[list[str], dict]:
        return decode_selection(*self._selection_bytes(name))

    def _selection_bytes(self, name: str) -> tuple[bytes, str]:
        path = self._selection_path(name)
        try:
            data = self._remote.read(f"selections/{path.name}") if self._remote else path.read_bytes()
        except FileNotFoundError as error:
            there = self._remote.names("selections") if self._remote else map(str, path.parent.glob("*.parquet"))
            known = ", ".join(sorted(Path(other).stem for other in there))
            raise StoreError(
                f"{self.name} has no selection {name!r}; it has: {known or 'none'}; `discl filter --name` makes one"
            ) from error
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
        return data, str(path)

    def _selection_path(self, name: str) -> Path:
        if not isinstance(name, str) or not _SELECTION.fullmatch(name):
            raise StoreError(f"selection name {name!r}: use letters, digits, '_', '-' and '.' only")
        return self.path / "selections" / f"{name}.parquet"

    def write_selection_stream(self, name: str, keys: Iterable[pa.Array], rule: dict) -> None:
        """`write_selection` for millions: arrays of distinct keys, all with an image here; the caller vouches."""
        self._refuse_remote(name)
        path = self._selection_path(name)
        try:
            path.parent.mkdir(exist_ok=True)
            write_selection_file(path, keys, rule)
        except OSError as error:
            raise StoreError(f"cannot write selection {name!r} to {self.path}: {error.strerror}") from error

    def _refuse_remote(self, name: str) -> None:
        if self._remote:
            raise StoreError(f"selection {name!r}: {self.name} is read through a cache; write where the store is")

    def write_selection(self, name: str, keys: Iterable[str], rule: dict) -> None:
        """Write or replace a selection: `keys`, each with an image in this store, and a JSON-able `rule`."""
        self._refuse_remote(name)
        chosen = sorted({check_key(key) for key in keys})
        rows = self.rows(chosen)
        bare = np.flatnonzero(self._places[0][rows] < 0)
        if len(bare):
            raise StoreError(f"selection {name!r}: {len(bare)} samples have no image, the first is {chosen[bare[0]]}")
        try:
            (self.path / "selections").mkdir(exist_ok=True)
            write_atomic(self._selection_path(name), encode_selection(chosen, rule))
        except OSError as error:
            raise StoreError(f"cannot write selection {name!r} to {self.path}: {error.strerror}") from error
