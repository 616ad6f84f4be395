"""A DataTable and a Store become one map-style dataset: real rows, then the selected synthetic."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from discl.data import DataTable, load_data
from discl.data.images import decode_image
from discl.errors import DataError, StoreError

REAL = 100  # the level of a real image


class SpectrumDataset(Dataset):
    """Rows [0, n_real) are the real images of a split, the rest the selection's images sorted by key.

    store: discl.Store, or None for real images only. data: DataTable, or the DataConfig to load it from.
    selection: its name in the store, or the keys. tail: table rows of the images that synthetic ones stand for
    (default: classes with fewer than 20 training images).
    Columns of length N: `labels` int64, `levels` int64 (100 = real), `is_synth` bool, `ids` objects (table id
    or store key), `tail` bool (False for synthetic rows). Raises StoreError where store and data disagree
    about the classes.
    """

    def __init__(self, store, data, selection="default", transform=None, split="train", tail=None):
        data = data if isinstance(data, DataTable) else load_data(data)
        self.store, self.data, self.transform = store, data, transform
        self.class_names, self.train_counts = data.class_names, data.train_counts
        rows = data.rows(split)
        keys, labels, levels = _synthetic(store, selection, data.class_names)
        self.n_real = len(rows)
        self.paths = [data.paths[row] for row in rows]
        self.labels = np.concatenate([data.labels[rows], labels])
        self.levels = np.concatenate([np.full(len(rows), REAL, np.int64), levels])
        self.is_synth = np.arange(len(self.labels)) >= self.n_real
        self.ids = np.array([data.ids[row] for row in rows] + keys, dtype=object)
        self.tail = np.zeros(len(self.labels), dtype=bool)
        self.tail[: self.n_real] = np.isin(rows, _few_rows(data) if tail is None else tail)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        """{image (RGB PIL image, or what `transform` makes of it), label, id, level, is_synth}."""
        image = decode_image(self.encoded(index), str(self.ids[index]))
        return {
            "image": self.transform(image) if self.transform else image,
            "label": int(self.labels[index]),
            "id": self.ids[index],
            "level": int(self.levels[index]),
            "is_synth": bool(self.is_synth[index]),
        }

    def encoded(self, index: int) -> bytes:
        """The encoded image file. Raises DataError for an unreadable file, StoreError for a bad record."""
        if self.is_synth[index]:
            return self.store.read(self.ids[index])
        try:
            return Path(self.paths[index]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.paths[index]}: cannot be read: {error.strerror or error}") from error


def _few_rows(data: DataTable, few_below: int = 20) -> np.ndarray:
    rows = data.rows("train")
    return rows[data.train_counts[data.labels[rows]] < few_below]


def _synthetic(store, selection: str | Iterable[str], class_names) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Keys, labels and levels of a selection, sorted by key."""
    if store is None:
        return [], np.empty(0, np.int64), np.empty(0, np.int64)
    keys = sorted(store.selection(selection) if isinstance(selection, str) else selection)
    columns = {name: store.table.column(name).to_pylist() for name in ("key", "class_id", "class_name", "level")}
    row_of = {key: row for row, key in enumerate(columns["key"])}
    missing = [key for key in keys if key not in row_of]
    if missing:
        name = f"selection {selection!r}" if isinstance(selection, str) else "the given selection"
        raise StoreError(f"{name}: key {missing[0]} is not in the store; select again")
    rows = [row_of[key] for key in keys]
    labels = np.array([columns["class_id"][row] for row in rows], dtype=np.int64)
    levels = np.array([columns["level"][row] for row in rows], dtype=np.int64)
    for row, label in zip(rows, labels, strict=True):
        _check_class(int(label), columns["class_name"][row], class_names)
    return keys, labels, levels


def _check_class(label: int, name: str, class_names) -> None:
    if not 0 <= label < len(class_names) or class_names[label] != name:
        known = class_names[label] if 0 <= label < len(class_names) else "no such class"
        raise StoreError(
            f"the store's class {label} is {name!r}, the data's is {known!r}; "
            "use the data set that the store was made from"
        )
