"""The Parquet indexes of sealed shards in, batches of their rows out: one shard in memory at a time."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discl.errors import StoreError
from discl.store import manifest
from discl.store.columns import REQUIRED, SCHEMA

FIRST, LAST = (pa.scalar(time.replace(tzinfo=timezone.utc)) for time in (datetime.min, datetime.max))
Test = tuple[str, str, Any]  # column, operator, value
Filter = Sequence[Test] | Sequence[Sequence[Test]]


def open_index(root: Path, shard: manifest.Shard) -> pq.ParquetFile:
    """The index of a shard, once its bytes are those that the manifest describes. Raises StoreError."""
    name = manifest.index_path(shard.number)
    with _reading(root / name):
        if (root / name).stat().st_size != shard.files[name]["bytes"]:
            raise ValueError("its size is not the one in the manifest")
        data = (root / name).read_bytes()
        if manifest.data_entry(data) != shard.files[name]:
            raise ValueError("its digest is not the one in the manifest")
        # Not read_table: its dataset threads outlive the read and can abort the process at exit.
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows != shard.rows:
            raise ValueError(f"it has {file.metadata.num_rows} rows, the manifest says {shard.rows}")
        _check_schema(file.schema_arrow)
    return file


def _check_schema(schema: pa.Schema) -> None:
    for field in SCHEMA:
        found = [schema.field(at).type for at in schema.get_all_field_indices(field.name)]
        if found != [field.type] and (found or field.name in REQUIRED):
            raise ValueError(f"its column {field.name} is missing or not {field.type}")


def _check_values(rows: pa.Table | pa.RecordBatch) -> None:
    """A time that Python cannot say would otherwise end whatever looks at its row."""
    rows.validate(full=True)
    if "created_at" in rows.schema.names:
        made = rows["created_at"]
        if pc.any(pc.or_(pc.less(made, FIRST), pc.greater(made, LAST))).as_py():
            raise ValueError("its column created_at holds a time beyond the years 1 to 9999")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever cannot be read is a damaged index; a foreign one may be damaged with a digest that fits."""
    try:
        yield
    except (OSError, KeyError, ValueError, MemoryError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged index ({error}); restore it from a copy of the store") from error


def read_index(root: Path, shard: manifest.Shard) -> pa.Table:
    """All of it. Raises StoreError."""
    file = open_index(root, shard)
    with _reading(root / manifest.index_path(shard.number)):
        table = file.read(use_threads=False)
        _check_values(table)
    return table


def _batches(root: Path, shard: manifest.Shard, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    file = open_index(root, shard)
    there = columns and [name for name in dict.fromkeys(columns) if name in file.schema_arrow.names]
    pieces = file.iter_batches(rows, columns=there, use_threads=False)
    while True:
        with _reading(root / manifest.index_path(shard.number)):
            batch = next(pieces, None)
            if batch is None:
                return
            _check_values(batch)
        yield batch


def scan(
    root: Path, shards: Iterable[manifest.Shard], columns: Sequence[str] | None, filter: Filter | None, rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows in the order of the shards; see Store.scan. Raises StoreError."""
    shards = list(shards)
    rule, tested = _rule(filter)
    _check_columns(root, shards, [*(columns or ()), *tested])
    wanted = None if columns is None else [*columns, *tested]
    for shard in shards:
        for batch in _batches(root, shard, wanted, rows):
            names = batch.schema.names if columns is None else columns
            batch = _with(batch, [name for name in [*names, *tested] if name not in batch.schema.names])
            yield (batch if rule is None else _filtered(batch, rule)).select(names)


def _rule(filter: Filter | None) -> tuple[Any, list[str]]:
    """An Arrow expression, or None, and the columns that it looks at."""
    if not filter:
        return None, []
    try:
        groups: Any = [filter] if isinstance(filter[0][0], str) else filter
        return pq.filters_to_expression(filter), [name for group in groups for name, _, _ in group]
    except (ValueError, TypeError, IndexError) as error:
        raise StoreError(f"filter {filter!r} is not a list like [('level', 'in', [0, 10])]: {error}") from error


def _check_columns(root: Path, shards: list[manifest.Shard], names: Iterable[str]) -> None:
    missing = set(names) - set(SCHEMA.names)
    for shard in shards:
        if not missing:
            return
        missing -= set(open_index(root, shard).schema_arrow.names)
    if missing:
        raise StoreError(f"{root}: no shard has the columns {sorted(missing)}; name columns of SCHEMA or the user's")


def _with(batch: pa.RecordBatch, absent: Iterable[str]) -> pa.RecordBatch:
    for name in dict.fromkeys(absent):
        type = SCHEMA.field(name).type if name in SCHEMA.names else pa.null()
        batch = batch.append_column(name, pa.nulls(len(batch), type))
    return batch


def _filtered(batch: pa.RecordBatch, rule: Any) -> pa.RecordBatch:
    """RecordBatch.filter, but without its threads."""
    from pyarrow import acero

    source = acero.Declaration("table_source", acero.TableSourceNodeOptions(pa.Table.from_batches([batch])))
    filter = acero.Declaration("filter", acero.FilterNodeOptions(rule), inputs=[source])
    try:
        kept = filter.to_table(use_threads=False)
    except (pa.ArrowException, TypeError) as error:
        raise StoreError(f"the filter does not suit its columns: {error}") from error
    return kept.combine_chunks().to_batches()[0] if len(kept) else batch.slice(0, 0)
