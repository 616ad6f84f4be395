"""The index of an unsealed shard: its rows in, one by one, and an Arrow table out.

The columns grow as Arrow lays them out, so that sealing parses and converts nothing while the next shard is appended.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from discl import _C
from discl.store.columns import JOURNAL_SCHEMA, KINDS, PLACE_SCHEMA, SCHEMA, fit

Places = tuple[np.ndarray, np.ndarray, np.ndarray]


class UnsealedIndex:
    """Rows in the order of the journal."""

    def __init__(self) -> None:
        self._columns = _C.IndexColumns(KINDS)
        self._blank: dict[str, Any] = dict.fromkeys(JOURNAL_SCHEMA.names)
        self.append = self._columns.append  # a row whose first columns are JOURNAL_SCHEMA's, of their types

    def recover(self, row: dict[str, Any]) -> None:
        """A row as a journal has it; what it lacks is null. StoreError for what does not fit."""
        full = {**self._blank, **row}
        fit(full)
        self.append(full)

    def table(self, shard: int, places: Places, user: Mapping[str, list[Any]]) -> pa.Table:
        """SCHEMA's columns, then the user's.

        places: offset, length and crc32c of every row's image; offset -1 where there is none.
        """
        offset, length, crc = places
        columns = {
            field.name: _array(field.type, len(offset), [pa.py_buffer(data) for data in self._columns.buffers(at)])
            for at, field in enumerate(JOURNAL_SCHEMA)
        }
        values = (np.full(len(offset), shard, np.int32), offset, length, crc)
        for value, field in zip(values, PLACE_SCHEMA, strict=True):
            columns[field.name] = pa.array(value, field.type, mask=offset < 0)
        table = pa.table([columns[name] for name in SCHEMA.names], SCHEMA)
        for name, given in user.items():
            table = table.append_column(name, _inferred(given))
        return table


def _array(type: pa.DataType, rows: int, buffers: list[pa.Buffer]) -> pa.Array:
    """What _C.IndexColumns keeps, with offsets of 32 bits where Arrow has a choice."""
    large = pa.large_string()
    if pa.types.is_string(type):
        return pa.Array.from_buffers(large, rows, buffers).cast(type)
    if pa.types.is_list(type):
        present, ends, *texts = buffers
        items = pa.Array.from_buffers(large, int(np.frombuffer(ends, np.int64)[-1]), texts)
        return pa.Array.from_buffers(pa.large_list(large), rows, [present, ends], children=[items]).cast(type)
    return pa.Array.from_buffers(type, rows, buffers)


def _inferred(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # kinds are mixed
        return pa.array([None if value is None else str(value) for value in values], pa.string())
