"""Rows of images with labels and splits: what every data kind returns and every later stage reads."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Packed:
    """Images that lie in a discl.Store: `rows`, int64 [N], of its index."""

    store: Any
    rows: np.ndarray


@dataclass(frozen=True)
class DataTable:
    """Columns of equal length N, one entry per image.

    ids: unique names; paths: absolute files; labels: int64 [N] in [0, C); splits: "train", "val" or "test";
    class_names: C names; columns: the user's further columns; quarantined: (path, reason) of dropped images.
    packed: where the images are instead of in files; `paths` are then only for people.
    """

    ids: list[str]
    paths: list[str]
    labels: np.ndarray
    splits: list[str]
    class_names: tuple[str, ...]
    columns: dict[str, list] = field(default_factory=dict)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    packed: Packed | None = None

    def __post_init__(self):
        assert len(self.ids) == len(self.paths) == len(self.labels) == len(self.splits)
        assert all(len(column) == len(self.ids) for column in self.columns.values())

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> np.ndarray:
        """int64 row numbers of a split, in table order."""
        return np.flatnonzero(np.array(self.splits) == split).astype(np.int64)

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
            packed=self.packed and replace(self.packed, rows=self.packed.rows[np.asarray(rows, dtype=np.int64)]),
        )
