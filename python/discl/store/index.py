"""The Parquet indexes of sealed shards in, batches of their rows out: one shard in memory at a time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discl.errors import StoreError
from discl.store import manifest
from discl.store.columns import SCHEMA

Test = tuple[str, str, Any]  # column, operator, value
Filter = Sequence[Test] | Sequence[Sequence[Test]]


def open_index(root: Path, shard: manifest.Shard) -> pq.ParquetFile:
    """The index of a shard, once its bytes are those that the manifest describes. Raises StoreError."""
    name = manifest.index_path(shard.number)
    try:
        data = (root / name).read_bytes()
        if manifest.data_entry(data) != shard.files[name]:
            raise ValueError("its digest is not the one in the manifest")
        # Not read_table: its dataset threads outlive the read and can abort the process at exit.
        return pq.ParquetFile(pa.BufferReader(data))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{root / name}: damaged index ({error}); restore it from a copy of the store") from error


def scan(
    root: Path, shards: Iterable[manifest.Shard], columns: Sequence[str] | None, filter: Filter | None, rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows in the order of the shards; see Store.scan. Raises StoreError."""
    shards = list(shards)
    rule, tested = _rule(filter)
    _check_columns(root, shards, [*(columns or ()), *tested])
    for shard in shards:
        file = open_index(root, shard)
        wanted = file.schema_arrow.names if columns is None else list(columns)
        there = [name for name in dict.fromkeys([*wanted, *tested]) if name in file.schema_arrow.names]
        for batch in file.iter_batches(rows, columns=there, use_threads=False):
            batch = _with(batch, [name for name in (*wanted, *tested) if name not in there])
            yield (batch if rule is None else _filtered(batch, rule)).select(wanted)


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
        batch = batch.append_column(name, pa.nulls(len(batch)))
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
