"""A DataTable and a Store become one map-style dataset: real rows, then the selected synthetic."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from discl._C import BatchReader
from discl.data import DataTable, load_data
from discl.data.images import decode_image
from discl.data.table import SPLITS
from discl.errors import ConfigError, DataError, StoreError
from discl.given import check_has, shown
from discl.labels import labeller, unknown_class
from discl.store.columns import classes
from discl.substitutes import Substitutes

REAL = 100  # the level of a real image
READ_THREADS = 4


class Places(NamedTuple):
    """Where n encoded images lie: `lengths` bytes (-1: all) of files[which] from `offsets`, int64 [n] each."""

    files: list[str]
    which: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    crcs: np.ndarray


class SpectrumDataset(Dataset):
    """Rows [0, n_real) are the real images of a split, the rest the selection's images by level, class and key.

    dataset[row]: {image: RGB PIL image, or what `transform` makes of it; label, level: int; id: str; is_synth: bool}.

    store: discl.Store, or None for real images only. data: DataTable, or the DataConfig to load it from.
    selection: its name in the store, or the keys. tail: table rows of the images that synthetic ones stand for
    (default: classes with fewer than 20 training images). without: table rows to leave out; `lost` counts
    them, (rest, tail), so that an epoch holds as many images as with them.

    Columns of length N: `labels` int32, `levels` int16 (100 = real), `is_synth` bool, `tail` bool (False for
    synthetic rows), `ids` objects (table id or store key). An image that cannot be read or decoded is replaced by
    the next of its class and level: what comes carries that one's id, and `substituted` counts in this process.
    Raises ConfigError for an argument of the wrong kind, StoreError where store and data disagree about the classes.
    """

    def __init__(
        self, store, data, selection="default", transform=None, split="train", tail=None, without=()
    ):  # fmt: skip
        _check(store, data, selection, transform, split)
        data = data if isinstance(data, DataTable) else load_data(data)
        tail = None if tail is None else _table_rows("tail", tail, data)
        without = _table_rows("without", without, data)
        self.store, self.data, self.transform = store, data, transform
        self.class_names, self.train_counts = data.class_names, data.train_counts
        real = np.setdiff1d(data.rows(split), without, assume_unique=True)
        synthetic = _synthetic(store, selection, data.class_names)
        self.n_real = len(real)
        self._real, self._stored = real, synthetic.rows
        self.labels = np.concatenate([data.labels[real], synthetic.labels]).astype(np.int32)
        self.levels = np.concatenate([np.full(len(real), REAL), synthetic.levels]).astype(np.int16)
        self.is_synth = np.arange(len(self.labels)) >= self.n_real
        hard = _few_rows(data) if tail is None else tail
        self.tail = np.zeros(len(self.labels), dtype=bool)
        self.tail[: self.n_real] = np.isin(real, hard)
        lost_tail = int(np.isin(without, hard).sum())
        self.lost = len(without) - lost_tail, lost_tail
        self.substitutes = Substitutes(self)
        self.substituted = 0
        self._readers: dict[int, BatchReader] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        """{image (RGB PIL image, or what `transform` makes of it), label, id, level, is_synth}."""
        return self._item(range(len(self))[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """The same for a batch, whose files are read side by side; torch's DataLoader asks for whole batches."""
        rows = [range(len(self))[index] for index in indices]
        files = self._reader.submit(*self.places(np.array(rows, dtype=np.int64))).images()
        return [self._item(row, file) for row, file in zip(rows, files, strict=True)]

    def _item(self, asked: int, file: np.ndarray | None = None) -> dict:
        row, image = self.decoded(asked, file)
        self.substituted += row != asked
        return {
            "image": self.transform(image) if self.transform else image,
            "label": int(self.labels[row]),
            "id": self.names([row])[0],
            "level": int(self.levels[row]),
            "is_synth": bool(self.is_synth[row]),
        }

    def decoded(self, row: int, file: np.ndarray | None = None) -> tuple[int, Image.Image]:
        """The row that was used and its RGB image; `file`: the bytes of `row`, where they are there already.

        RunFailed: no image of its class and level can be used.
        """
        while True:
            used = self.substitutes.of(row)
            try:
                data = self.encoded(used) if file is None or used != row else file.tobytes()
                return used, decode_image(data, self.names([used])[0])
            except (DataError, StoreError) as error:
                self.substitutes.reject(used, str(error))

    @property
    def _reader(self) -> BatchReader:
        """This process's own: threads do not survive a fork."""
        if self._readers.get(os.getpid()) is None:
            self._readers = {os.getpid(): BatchReader(READ_THREADS)}
        return self._readers[os.getpid()]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_readers": {}}

    def encoded(self, index: int) -> bytes:
        """The encoded image file. Raises DataError for an unreadable file, StoreError for a bad record."""
        if index >= self.n_real:
            return self.store.read(self.names([index])[0])
        return self.data.encoded(int(self._real[index]))

    @cached_property
    def paths(self) -> list[str]:
        """Files of the real rows."""
        return [self.data.paths[row] for row in self._real]

    @cached_property
    def ids(self) -> np.ndarray:
        """Objects [N]; `names` makes those of some rows only."""
        return np.array(self.names(np.arange(len(self))), dtype=object)

    def names(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Table ids and store keys of some rows."""
        rows = np.asarray(rows, dtype=np.int64)
        made, out = rows >= self.n_real, np.empty(len(rows), dtype=object)
        out[~made] = [self.data.ids[row] for row in self._real[rows[~made]]]
        if made.any():
            out[made] = self.store.keys_at(self._stored[rows[made] - self.n_real])
        return out.tolist()

    def places(self, rows: np.ndarray) -> Places:
        """Where the encoded images of some rows lie."""
        made = rows >= self.n_real
        parts = [(~made, self._real_places(rows[~made]))]
        if made.any():
            parts.append((made, Places(*self.store.places(self._stored[rows[made] - self.n_real]))))
        files: list[str] = []
        columns = np.empty((4, len(rows)), np.int64)
        for mask, part in parts:
            columns[:, mask] = part.which + len(files), part.offsets, part.lengths, part.crcs
            files += part.files
        return Places(files, *columns)

    def _real_places(self, rows: np.ndarray) -> Places:
        packed = self.data.packed
        if packed:
            return Places(*packed.store.places(packed.rows[self._real[rows]]))
        zeros = np.zeros(len(rows), np.int64)
        return Places([self.paths[row] for row in rows.tolist()], np.arange(len(rows)), zeros, zeros - 1, zeros)

    @cached_property
    def digest(self) -> str:
        """32 hex characters that stand for the rows: ids, labels and levels in this order."""
        digest = blake2b(digest_size=16)
        for column in (self.labels, self.levels):
            digest.update(column.tobytes())
        for start in range(0, len(self), 1 << 16):
            names = self.names(np.arange(start, min(start + (1 << 16), len(self))))
            digest.update("\0".join([*names, ""]).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class _Synthetic(NamedTuple):
    """Rows of the store's index with their labels and levels."""

    rows: np.ndarray
    labels: np.ndarray
    levels: np.ndarray


def _check(store, data, selection, transform, split) -> None:
    """ConfigError for what is of the wrong kind, before anything is read."""
    call = "SpectrumDataset"
    if store is not None:
        advice = "open it with discl.Store(path), or give None for real images only"
        check_has(call, "store", store, ("selection", "rows", "scan", "places"), advice)
    if not isinstance(data, DataTable):
        advice = "give a DataTable, or the config's table: load_config(file).data"
        check_has(call, "data", data, ("kind", "root", "max_bad_share", "allow_licenses"), advice)
    if isinstance(selection, bytes) or not isinstance(selection, Iterable):
        raise ConfigError(f"{call}(selection={shown(selection)}): give its name in the store, or the keys")
    if transform is not None and not callable(transform):
        raise ConfigError(f"{call}(transform={shown(transform)}): give a function of a PIL image, or None")
    if split not in SPLITS:
        raise ConfigError(f"{call}(split={shown(split)}): give one of {', '.join(SPLITS)}")


def _table_rows(name: str, given, data: DataTable) -> np.ndarray:
    """int64. ConfigError for what is no row of the table."""
    rows = np.asarray(given)
    sound = rows.ndim == 1 and (not rows.size or np.issubdtype(rows.dtype, np.integer))
    if not sound or np.any((rows < 0) | (rows >= len(data))):
        raise ConfigError(f"SpectrumDataset({name}={shown(given)}): give table rows from 0 to {len(data) - 1}")
    return rows.astype(np.int64)


def _few_rows(data: DataTable, few_below: int = 20) -> np.ndarray:
    rows = data.rows("train")
    return rows[data.train_counts[data.labels[rows]] < few_below]


def _synthetic(store, selection: str | Iterable[str], class_names: Sequence[str]) -> _Synthetic:
    """A selection by level, class and key: the pools of an epoch are then ranges of rows."""
    if store is None:
        return _Synthetic(*np.empty((3, 0), np.int64))
    keys = sorted(store.selection(selection) if isinstance(selection, str) else selection)
    try:
        rows = store.rows(keys)
    except StoreError as error:
        name = f"selection {selection!r}" if isinstance(selection, str) else "the given selection"
        raise StoreError(f"{name}: {error}; select again") from error
    labels, levels = (column[rows] for column in _labels_and_levels(store, class_names, rows))
    order = np.lexsort([labels, levels])
    return _Synthetic(*(column[order] for column in (rows, labels, levels)))


def _labels_and_levels(store, class_names: Sequence[str], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the whole index. Raises StoreError where one of `rows` is of a class that the data does not have."""
    labels_of = labeller(class_names)
    labels, levels, rows, at = [np.empty(0, np.int32)], [np.empty(0, np.int16)], np.sort(rows), 0
    for batch in store.scan(["class_id", "class_name", "level"]):
        label = labels_of(batch)
        chosen = rows[slice(*np.searchsorted(rows, [at, at + len(batch)]))] - at
        strange = chosen[label[chosen] < 0]
        if len(strange):
            raise unknown_class(
                classes(batch)[strange[0]].as_py(),
                "of which the store has selected images; use the data that the store was made from, or select again "
                "without them",
            )
        labels.append(label)
        levels.append(batch["level"].fill_null(-1).to_numpy().astype(np.int16))
        at += len(batch)
    return np.concatenate(labels), np.concatenate(levels)
