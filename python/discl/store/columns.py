"""The index: one row dict per sample in, JSON for the journal and the tar, and an Arrow table, out."""

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from discl.errors import StoreError

KEY = re.compile(r"[0-9a-f]{32}")

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
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("size_policy", pa.string()),
    ]
)
PLACE_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("offset", pa.int64()), ("length", pa.int64()), ("crc32c", pa.uint32())]
)
SCHEMA = pa.schema([*list(ROW_SCHEMA)[:-3], *PLACE_SCHEMA, *list(ROW_SCHEMA)[-3:]])

# Who made a sample and when is no property of the sample: the tar's bytes depend on the key alone.
NOT_IN_TAR = ("run_id", "created_at")


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


def complete_row(row: Mapping[str, Any], user_columns: tuple[str, ...], run_id: str) -> dict[str, Any]:
    """Every column as a plain JSON value; what the row lacks is None. Raises StoreError."""
    check_key(row.get("key"))
    unknown = sorted(set(row) - set(ROW_SCHEMA.names) - set(user_columns))
    if unknown:
        raise StoreError(f"sample {row['key']}: unknown columns {unknown}; name them in user_columns")
    full = {name: plain(row.get(name)) for name in (*ROW_SCHEMA.names, *user_columns)}
    full["run_id"] = full["run_id"] or run_id
    full["created_at"] = full["created_at"] or plain(datetime.datetime.now(datetime.timezone.utc))
    return full


def plain(value: Any) -> Any:
    """A JSON value: numpy scalars unwrapped, times as ISO 8601 in UTC, NaN as null."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat(timespec="microseconds")
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def row_json(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"sample {row['key']}: a column does not fit JSON: {error}") from error


def tar_json(row: Mapping[str, Any]) -> bytes:
    return row_json({name: value for name, value in row.items() if name not in NOT_IN_TAR})


def index_table(rows: list[dict[str, Any]], places: list[tuple[int, int, int, int] | None]) -> pa.Table:
    """Rows and (shard, offset, length, crc32c) or None in; SCHEMA's columns, then the user's, out."""
    user = list(dict.fromkeys(name for row in rows for name in row if name not in ROW_SCHEMA.names))
    arrays = [pa.array([_typed(row[field.name], field) for row in rows], field.type) for field in ROW_SCHEMA]
    columns = zip(*(place or (None,) * 4 for place in places), strict=True) if places else [[]] * 4
    arrays += [pa.array(list(values), field.type) for values, field in zip(columns, PLACE_SCHEMA, strict=True)]
    arrays += [_inferred([row.get(name) for row in rows]) for name in user]
    table = pa.table(arrays, names=[*ROW_SCHEMA.names, *PLACE_SCHEMA.names, *user])
    return table.select([*SCHEMA.names, *user])


def check_types(row: Mapping[str, Any]) -> None:
    """Refuse now what the index could not hold when the shard is sealed. Raises StoreError."""
    for field in ROW_SCHEMA:
        try:
            pa.scalar(_typed(row[field.name], field), field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise StoreError(
                f"sample {row['key']}: column {field.name} is {row[field.name]!r}, not {field.type}: {error}"
            ) from error


def _typed(value: Any, field: pa.Field) -> Any:
    if isinstance(value, str) and pa.types.is_list(field.type):
        raise TypeError("Arrow would take a string for a list of letters")
    if value is not None and pa.types.is_timestamp(field.type):
        return datetime.datetime.fromisoformat(value)
    return value


def _inferred(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # kinds are mixed
        return pa.array([None if value is None else str(value) for value in values], pa.string())
