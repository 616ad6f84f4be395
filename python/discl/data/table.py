"""Rows of images with labels and splits: what every data kind returns and every later stage reads."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from discl.errors import DataError

SPLITS = ("train", "val", "test", "id_val", "id_test")  # id_*: in-distribution beside val and test, as in WILDS


@dataclass(frozen=True)
class Packed:
    """Images that lie in a discl.Store: `rows`, int64 [N], of its index."""

    store: Any
    rows: np.ndarray


@dataclass(frozen=True)
class Places:
    """Which row of which list names each image: `files[which[i]]`, row `numbers[i]`; int64 [N] both."""

    files: tuple[str, ...]
    which: np.ndarray
    numbers: np.ndarray

    @classmethod
    def joined(cls, parts: "list[Places]") -> "Places":
        starts = np.cumsum([0, *(len(part.files) for part in parts)])
        return cls(
            tuple(file for part in parts for file in part.files),
            np.concatenate([part.which + start for part, start in zip(parts, starts, strict=False)]),
            np.concatenate([part.numbers for part in parts]),
        )

    def __getitem__(self, row: int) -> str:
        return f"{self.files[self.which[row]]}, row {self.numbers[row]}"

    def take(self, rows) -> "Places":
        return replace(self, which=self.which[rows], numbers=self.numbers[rows])


@dataclass(frozen=True)
class DataTable:
    """Columns of equal length N, one entry per image.

    ids: unique names; paths: absolute files; labels: int64 [N] in [0, C); splits: names among SPLITS;
    class_names: C different names; columns: the user's further columns; quarantined: (path, reason) of dropped images.
    packed: where the images are instead of in files; `paths` are then only for people.
    sources: absolute files to make spectra of, where these are not the training's own (an upscaled variant).
    places: the row of the list that names each image, for messages.
    """

    ids: list[str]
    paths: list[str]
    labels: np.ndarray
    splits: list[str]
    class_names: tuple[str, ...]
    columns: dict[str, list] = field(default_factory=dict)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    packed: Packed | None = None
    sources: list[str] | None = None
    places: Places | None = None

    def __post_init__(self):
        assert len(self.ids) == len(self.paths) == len(self.labels) == len(self.splits)
        assert all(len(column) == len(self.ids) for column in self.columns.values())

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> np.ndarray:
        """int64 row numbers of a split, in table order."""
        return np.flatnonzero(np.array(self.splits) == split).astype(np.int64)

    @property
    def held_out(self) -> list[str]:
        """The splits to measure on that have images."""
        return [split for split in SPLITS[1:] if split in set(self.splits)]

    @property
    def selection_split(self) -> str | None:
        """The split to choose by, never a test split: id_val where there is one, else val."""
        return next((split for split in ("id_val", "val") if split in self.held_out), None)

    def source(self, row: int) -> str:
        """The file that the row's spectrum is made of."""
        return (self.sources or self.paths)[row]

    def encoded(self, row: int) -> bytes:
        """The row's image file. DataError for one that cannot be read, StoreError for a damaged record."""
        if self.packed:
            return self.packed.store.read(*self.packed.store.keys_at(self.packed.rows[[row]]))
        try:
            return Path(self.paths[row]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.paths[row]}: cannot be read: {error.strerror or error}") from error

    @cached_property
    def train_counts(self) -> np.ndarray:
        """int64 [C]: training images per class. These original counts define many, medium and few."""
        return np.bincount(self.labels[self.rows("train")], minlength=len(self.class_names)).astype(np.int64)

    def take(self, rows) -> "DataTable":
        """The same table with these rows only, in this order."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            paths=[self.paths[row] for row in rows],
            labels=self.labels[np.asarray(rows, dtype=np.int64)],
            splits=[self.splits[row] for row in rows],
            columns={name: [values[row] for row in rows] for name, values in self.columns.items()},
            sources=self.sources and [self.sources[row] for row in rows],
            places=self.places and self.places.take(np.asarray(rows, dtype=np.int64)),
            packed=self.packed and replace(self.packed, rows=self.packed.rows[np.asarray(rows, dtype=np.int64)]),
        )
