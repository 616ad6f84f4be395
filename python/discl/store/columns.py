"""The index: its columns, and one row dict per sample in, JSON for the journal and the tar out."""

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from discl import _C
from discl.errors import StoreError

KEY = re.compile(r"[0-9a-f]{32}")


def classes(rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
    """Strings: what tells the rows' classes apart, from the columns class_name and class_id.

    It is the name: the numbers of classes shift when the data gains one. Where the name lacks, the number.
    """
    names = rows["class_name"]
    return pc.coalesce(names, rows["class_id"].cast(pa.string()), "") if names.null_count else names


# The caller's columns, then the four that the store adds.
ROW_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("run_id", pa.string()),
        ("recipe", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("source_id", pa.string()),
        ("source_ids", pa.list_(pa.string())),
        ("source_digest", pa.string()),
        ("class_id", pa.int64()),
        ("class_name", pa.string()),
        ("level", pa.int32()),
        ("seed", pa.int64()),
        ("retry", pa.int32()),
        ("attempt_of", pa.string()),
        ("noise_seed", pa.int64()),
        ("prompt", pa.string()),
        ("text_score", pa.float32()),
        ("image_score", pa.float32()),
        ("margin", pa.float32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("control", pa.bool_()),
        ("rejected_at", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("size_policy", pa.string()),
    ]
)
PLACE_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("offset", pa.int64()), ("length", pa.int64()), ("crc32c", pa.uint32())]
)
SCHEMA = pa.schema([*list(ROW_SCHEMA)[:-3], *PLACE_SCHEMA, *list(ROW_SCHEMA)[-3:]])

_OWN = frozenset(ROW_SCHEMA.names)

# What every index has. Other columns of SCHEMA may be younger than a shard: there they are null.
REQUIRED = ("key", "source_id", "class_id", "class_name", "level", "status", *PLACE_SCHEMA.names)

# Who made a sample and when is no property of the sample: the tar's bytes depend on the key alone.
NOT_IN_TAR = ("run_id", "created_at")
_KEY = b',"key":'  # the first column behind them
_UTC = datetime.timezone.utc

# Values of exactly these classes, integers in their range, need no look by Arrow, which takes 100 times as long. Nor by
# Python, where C++ finds them by their letters.
_STRINGS = pa.list_(pa.string())
_PLAIN = {pa.string(): str, pa.int64(): int, pa.int32(): int, pa.float32(): float, pa.bool_(): bool}
_LETTER = {pa.string(): "s", pa.int64(): "l", pa.int32(): "i", pa.float32(): "f", pa.bool_(): "b", _STRINGS: "S"}
JOURNAL_SCHEMA = pa.schema(sorted(ROW_SCHEMA, key=lambda field: field.name not in NOT_IN_TAR))  # a journal's order
KINDS = "".join(_LETTER.get(type, "t") for type in JOURNAL_SCHEMA.types)  # for _C.IndexColumns
_LETTERS = "".join("k" if f.name == "key" else _LETTER.get(f.type, "-") for f in JOURNAL_SCHEMA)
_CLASSES = [(field.name, _PLAIN.get(field.type, type(None))) for field in ROW_SCHEMA]
_LIMITS = [(f.name, 1 << f.type.bit_width - 1) for f in ROW_SCHEMA if pa.types.is_integer(f.type)]


def check_key(key: Any) -> str:
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise StoreError(f"sample key {key!r} is not 32 lowercase hex characters; use the plan's keys")
    return key


def check_user_columns(names: Iterable[str]) -> tuple[str, ...]:
    names = tuple(names)
    taken = sorted(set(names) & set(SCHEMA.names))
    if taken or len(set(names)) < len(names):
        raise StoreError(f"user columns {list(names)}: {taken or 'a name'} is used twice; rename it in the data table")
    return names


# A row with every column in the journal's order, its JSON, and where in that the tar's columns begin.
EncodedRow = tuple[dict[str, Any], bytes, int]


class RowEncoder:
    """Rows of one run as JSON. What a row lacks is null; its run and its time are filled in."""

    def __init__(self, user_columns: tuple[str, ...], run_id: str) -> None:
        self.run_id = run_id
        self._blank: dict[str, Any] = dict.fromkeys((*JOURNAL_SCHEMA.names, *user_columns))

    def encode(self, row: Mapping[str, Any]) -> EncodedRow:
        """StoreError for what does not fit the index."""
        full = {**self._blank, **row}
        if len(full) > len(self._blank):
            unknown = sorted(full.keys() - self._blank.keys())
            raise StoreError(f"sample {full['key']}: unknown columns {unknown}; name them in user_columns")
        fit(full)
        full["run_id"] = full["run_id"] or self.run_id
        full["created_at"] = full["created_at"] or datetime.datetime.now(_UTC)
        encoded = _json(full)
        return full, encoded, encoded.index(_KEY) + 1  # inside a string its quotes would be escaped


def fit(row: dict[str, Any]) -> None:
    """Refuse now what the index could not hold when the shard is sealed, and unwrap what JSON does not know.

    The row's first columns are JOURNAL_SCHEMA's. StoreError for a value that is not of its column's type.
    """
    if _C.is_plain(row, _LETTERS):
        return
    check_key(row["key"])
    for name, plain in _CLASSES:
        value = row[name]
        if value is not None and value.__class__ is not plain:
            row[name] = _checked(row, name)
    for name, limit in _LIMITS:
        value = row[name]
        if value is not None and not -limit <= value < limit:
            _checked(row, name)


def _checked(row: Mapping[str, Any], name: str) -> Any:
    field, value = ROW_SCHEMA.field(name), row[name]
    if field.type == _STRINGS and value.__class__ is list and all(item.__class__ is str for item in value):
        return value
    try:
        value = _plain(value)
        if isinstance(value, str) and pa.types.is_list(field.type):
            raise TypeError("Arrow would take a string for a list of letters")
        if isinstance(value, str) and pa.types.is_timestamp(field.type):
            value = _plain(datetime.datetime.fromisoformat(value.replace("Z", "+00:00")))
        taken = pa.scalar(value, field.type)
        if pa.types.is_string(field.type) or (pa.types.is_floating(field.type) and not isinstance(value, bool)):
            return value
        return taken.as_py()  # Arrow takes 3.0 for an integer, say: it is one in JSON too
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"sample {row['key']}: column {name} is {row[name]!r}, not {field.type}: {error}") from error


def _plain(value: Any) -> Any:
    """Numpy's scalars and arrays unwrapped, times in UTC: those without a zone too, as Arrow and numpy read them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, datetime.datetime):
        return value.astimezone(_UTC) if value.tzinfo else value.replace(tzinfo=_UTC)
    return value


def _json(row: dict[str, Any]) -> bytes:
    """NaN and infinity are null."""
    try:
        return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, ValueError) as error:
        raise StoreError(f"sample {row['key']}: a column does not fit JSON: {error}") from error


def split_lines(lines: np.ndarray) -> list[bytes]:
    """One row each."""
    return lines.tobytes().split(b"\n")[:-1]


def user_columns_of(row: Mapping[str, Any]) -> list[str]:
    """The columns of a journal row that are not ROW_SCHEMA's."""
    return [name for name in row if name not in _OWN]
