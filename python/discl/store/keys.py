"""The keys of a store: 32 hex characters in, present or not, and their number in order of adding, out.

About 23 bytes per key; a Python set of strings takes 140.
"""

from collections.abc import Iterable, Iterator, Set
from typing import Any

import numpy as np
import pyarrow as pa

from discl import _C
from discl.errors import StoreError


class Keys(Set):
    """A set that only grows. Iterates in the order of adding."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._table = _C.KeyTable()
        self.add = self._table.add  # False if it was there already; ValueError unless it is 32 lowercase hex characters
        for key in keys:
            self._table.add(key)

    @classmethod
    def _from_iterable(cls, keys: Iterable[Any]) -> set:  # what &, | and - make
        return set(keys)

    def __contains__(self, key: object) -> bool:
        return key in self._table

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[str]:
        return (self._table[number] for number in range(len(self._table)))

    def add_column(self, column: pa.Array) -> int:
        """Add an index's key column; returns how many were new. StoreError for what is no key."""
        try:
            return self._table.add_all(_characters(column))
        except ValueError as error:
            raise StoreError(f"the index's column key: {error}") from error

    def at(self, numbers: Iterable[int]) -> list[str]:
        """The keys with these numbers. IndexError for a number that none has."""
        return [self._table[int(number)] for number in numbers]

    def numbers(self, keys: Iterable[str]) -> np.ndarray:
        """int64: for each key how many were added before it, -1 for one that is not here."""
        column = pa.array(keys, pa.string())
        return self._table.find_all(_characters(column))


def _characters(keys: pa.Array) -> memoryview:
    """32 bytes per key, end to end, in Arrow's own buffer."""
    try:
        if keys.null_count:
            raise ValueError("a key is null")
        fixed = keys.cast(pa.binary()).cast(pa.binary(32))
    except ValueError as error:  # Arrow's own errors too
        raise StoreError(f"the index's column key holds something else than 32 hex characters ({error})") from error
    return memoryview(fixed.buffers()[1] or b"")[32 * fixed.offset :][: 32 * len(fixed)]
