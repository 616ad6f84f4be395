"""The forms of an export: each a context manager that gives `add(record)` and writes into one folder."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from discl.store.records import Record

Add = Callable[[Record], None]
TAKEN, FILE_NAMES = ("image", "label"), ("file_name", "file_names")  # names of columns that mean something to readers
OWN_FILES = ("metadata.jsonl", "README.md")
ROW_GROUP = 256  # images in memory at a time
MOST_CLASSES = 100_000


class Labels:
    """(class_id, class_name) pairs in; a label for every one of them, and the names of 0..n-1, out.

    The labels are the store's class ids; where one is missing, absurd or stands for two names, the sorted names are
    numbered.
    """

    def __init__(self, classes: Iterable[tuple[int | None, str | None]]) -> None:
        pairs = {(number, name or "unknown") for number, name in classes}
        numbers, names = {number for number, _ in pairs}, sorted({name for _, name in pairs})
        ids = {number: name for number, name in pairs if number is not None and number >= 0}
        if len(ids) == len(numbers) == len(pairs) == len(names) and max(ids) < MOST_CLASSES:
            self.names = [ids.get(number, f"class {number} (no image)") for number in range(max(ids) + 1)]
        else:
            self.names = names
        self._label_of = {name: label for label, name in enumerate(self.names)}

    def of(self, row: dict[str, Any]) -> int:
        return self._label_of[row["class_name"] or "unknown"]


@dataclass(frozen=True)
class Contents:
    """labels of the classes; columns: the Arrow types of the rows; shard_bytes: images per file, about."""

    labels: Labels
    columns: pa.Schema
    shard_bytes: int


class WebDataset:
    """data-000000.tar, ...: <key>.<jpg|png|webp>, <key>.cls, <key>.json; plain USTAR, the same bytes each time."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._folder, self._labels, self._shard_bytes = folder, contents.labels, contents.shard_bytes
        self._tar: tarfile.TarFile | None = None
        self._shards = 0

    def __enter__(self) -> Add:
        return self._add

    def _add(self, record: Record) -> None:
        if self._tar is None or self._tar.offset >= self._shard_bytes:
            self._next()
        row = record.row
        self._member(f"{row['key']}.{record.extension}", record.image or b"")
        self._member(f"{row['key']}.cls", b"%d" % self._labels.of(row))
        self._member(f"{row['key']}.json", orjson.dumps(row))

    def _next(self) -> None:
        self.__exit__()
        self._tar = tarfile.open(self._folder / f"data-{self._shards:06d}.tar", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._shards += 1

    def _member(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))

    def __exit__(self, *error: object) -> None:
        if self._tar is not None:
            self._tar.close()


class ImageFolder:
    """<class>/<key>.<jpg|png|webp>, and metadata.jsonl with one line per image: file_name, label, then the row.

    `datasets` takes columns whose names end in file_name for images, so those of a user's are renamed.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._folder, self._labels = folder, contents.labels
        self._names = _free(contents.columns.names, lambda name: name in TAKEN or name.endswith(FILE_NAMES))
        self._folders = _folder_names(self._labels.names)

    def __enter__(self) -> Add:
        self._lines = open(self._folder / "metadata.jsonl", "wb")
        return self._add

    def _add(self, record: Record) -> None:
        label = self._labels.of(record.row)
        name = f"{self._folders[label]}/{record.row['key']}.{record.extension}"
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(record.image or b"")
        row = {self._names[column]: value for column, value in record.row.items()}
        self._lines.write(orjson.dumps({"file_name": name, "label": label, **row}) + b"\n")

    def __exit__(self, *error: object) -> None:
        self._lines.close()


def _folder_names(names: list[str]) -> list[str]:
    """One folder name per class, none of which leads elsewhere or hides."""
    safe = ["".join("_" if letter in '/\\:*?"<>|' or ord(letter) < 32 else letter for letter in name) for name in names]
    safe = [f"_{name[1:]}" if name.startswith(".") else name or "_" for name in safe]
    taken = {*OWN_FILES, *(name for name in safe if safe.count(name) > 1)}
    told = [f"{name}_{label}" if name in taken else name for label, name in enumerate(safe)]
    return told if len(set(told)) == len(told) else [f"{name}_{label}" for label, name in enumerate(safe)]


def _free(names: Sequence[str], taken: Callable[[str], bool]) -> dict[str, str]:
    """Each name, or where a reader takes it for something of its own, one with underscores behind."""
    free = {}
    for name in names:
        other = name
        while taken(other) or (other != name and other in names):
            other += "_"
        free[name] = other
    return free


class HuggingFace:
    """data/train-00000.parquet, ...: image {bytes, path}, label (ClassLabel), then the row; for `datasets`."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._folder, self._labels, self._shard_bytes = folder / "data", contents.labels, contents.shard_bytes
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": self._labels.names}}
        first = [
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            pa.field("label", pa.int64()),
        ]
        self._names = _free(contents.columns.names, TAKEN.__contains__)
        columns = [field.with_name(self._names[field.name]) for field in contents.columns]
        self._schema = pa.schema([*first, *columns], {"huggingface": json.dumps({"info": {"features": features}})})
        self._rows: list[dict[str, Any]] = []
        self._file: pq.ParquetWriter | None = None
        self._bytes = self._files = 0

    def __enter__(self) -> Add:
        self._folder.mkdir()
        return self._add

    def _add(self, record: Record) -> None:
        row = record.row
        image = {"bytes": record.image, "path": f"{row['key']}.{record.extension}"}
        named = {self._names[column]: value for column, value in row.items()}
        self._rows.append({**named, "image": image, "label": self._labels.of(row)})
        self._bytes += len(record.image or b"")
        if len(self._rows) == ROW_GROUP:
            self._write()
        if self._bytes >= self._shard_bytes:
            self._close()

    def _write(self) -> None:
        if self._file is None:
            self._file = pq.ParquetWriter(
                self._folder / f"train-{self._files:05d}.parquet", self._schema, compression="zstd"
            )
        self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def _close(self) -> None:
        if self._rows:
            self._write()
        if self._file is not None:
            self._file.close()
            self._file, self._bytes, self._files = None, 0, self._files + 1

    def __exit__(self, *error: object) -> None:
        self._close()
