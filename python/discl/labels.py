"""Rows of a store's index in, the data's labels of their classes out."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow

from discl.data.reference import labels_by_name
from discl.errors import StoreError
from discl.store.columns import classes


def labeller(class_names: Sequence[str]) -> Callable[[pyarrow.RecordBatch], np.ndarray]:
    """A function: rows of an index with class_id and class_name -> int32, the data's labels, -1 for none.

    Names count: numbers shift when the data gains a class. A class to which the data gives a number alone is named
    by that.
    """
    label_of = labels_by_name(class_names)
    unnamed = np.array([name == str(label) for label, name in enumerate(class_names)] + [False])

    def labels(batch: pyarrow.RecordBatch) -> np.ndarray:
        name = classes(batch).dictionary_encode()
        known = np.array([label_of.get(word, -1) for word in name.dictionary.to_pylist()], np.int32)
        label, number = known[name.indices.to_numpy()], batch["class_id"].fill_null(-1).to_numpy()
        number = np.clip(number, -1, len(unnamed) - 1)
        return np.where((label < 0) & unnamed[number], number, label).astype(np.int32)

    return labels


def unknown_class(name: str, more: str) -> StoreError:
    """For a class in a store that the data does not have, and what `more` to say of it; "" is the class of images that
    have none."""
    if name:
        return StoreError(f"the data has no class {name!r}, {more}")
    return StoreError(
        "the store has images of no class, as an import from a tree without class folders leaves them; put the leaves "
        "below a folder per class, <class>/<leaf>/, and import them again, into a new store"
    )
