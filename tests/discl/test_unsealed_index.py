"""The index of an unsealed shard against Arrow's own reader of JSON, and that what is taken can be sealed."""

import datetime
import random
import string
import time
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json
import pytest

from discl import _C
from discl.errors import StoreError
from discl.store import Store, StoreWriter
from discl.store.columns import ROW_SCHEMA, SCHEMA, RowEncoder
from discl.store.unsealed_index import UnsealedIndex
from tests.discl.store_samples import key

UTC = datetime.timezone.utc


def texts(rng: random.Random) -> str:
    return "".join(rng.choices(string.printable + "éß漢🙂\0", k=rng.choice([0, 1, 7, 300])))


def times(rng: random.Random) -> datetime.datetime:
    years = [1, 1582, 1900, 1969, 1970, 2000, 2024, 2100, 9999]
    day = datetime.datetime(rng.choice(years), rng.choice([1, 2, 3, 12]), rng.choice([1, 28]), tzinfo=UTC)
    return day + datetime.timedelta(seconds=rng.randrange(86_400), microseconds=rng.randrange(10**6))


def value(rng: random.Random, type: pa.DataType):
    if rng.random() < 0.2:
        return None
    if pa.types.is_string(type):
        return texts(rng)
    if pa.types.is_list(type):
        return [texts(rng) if rng.random() < 0.9 else None for _ in range(rng.randrange(4))]
    if pa.types.is_boolean(type):
        return rng.random() < 0.5
    if pa.types.is_floating(type):
        return rng.choice([rng.gauss(0, 1), 0.0, -0.0, 1e-45, 1e300, float("nan"), float("-inf"), 3])
    if pa.types.is_timestamp(type):
        return times(rng)
    limit = 1 << type.bit_width - 1
    return rng.choice([0, -1, limit - 1, -limit, rng.randrange(-limit, limit)])


def rows(count: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    print(f"seed {seed}")
    return [{f.name: value(rng, f.type) for f in ROW_SCHEMA} | {"key": key(i)} for i in range(count)]


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, 1), (700, 2)])
def test_columns_are_those_that_arrow_reads_from_the_journals_lines(count, seed):
    encoder, index, again, lines = RowEncoder((), "run"), UnsealedIndex(), UnsealedIndex(), []
    for row in rows(count, seed):
        values, journalled, _ = encoder.encode(row)
        index.append(values)
        again.recover(orjson.loads(journalled))
        lines.append(journalled)
    offset = np.array([i if i % 3 else -1 for i in range(count)], np.int64)
    places = (offset, offset + 1, offset.astype(np.uint32))
    table = index.table(7, places, {})
    assert table.schema == SCHEMA
    table.validate(full=True)
    assert table == again.table(7, places, {})
    if count:
        how = pa.json.ParseOptions(explicit_schema=ROW_SCHEMA)
        expected = pa.json.read_json(pa.BufferReader(b"\n".join(lines)), parse_options=how)
        assert table.select(ROW_SCHEMA.names).equals(expected.select(ROW_SCHEMA.names).combine_chunks())
    assert table["shard"].to_pylist() == [7 if i % 3 else None for i in range(count)]
    assert table["offset"].to_pylist() == [i if i % 3 else None for i in range(count)]


@pytest.mark.parametrize(
    ("column", "given", "expected"),
    [
        ("class_id", 3.0, 3),
        ("class_id", np.float64(3), 3),
        ("text_score", True, 1.0),
        ("source_ids", ("a", "b"), ["a", "b"]),
        ("created_at", 1_577_836_800_000_000, datetime.datetime(2020, 1, 1, tzinfo=UTC)),
        ("created_at", np.datetime64("2020-01-01T00:00:00"), datetime.datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_arrow_takes_for_a_columns_type_can_be_sealed(tmp_path, column, given, expected):
    with StoreWriter(tmp_path / "s", "run", shard_bytes=1 << 20) as writer:
        writer.append({"key": key(0), column: given}, b"image", "png", None)
    assert Store(tmp_path / "s").table[column].to_pylist() == [expected]


@pytest.fixture
def new_york(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5EDT")  # in the form that needs no zone files
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "given",
    [
        "2020-01-01T00:00:00",
        "2020-01-01",
        datetime.datetime(2020, 1, 1),
        np.datetime64("2020-01-01T00:00:00"),
        1_577_836_800_000_000,
        "2020-01-01T00:00:00Z",
        "2019-12-31T19:00:00-05:00",
        datetime.datetime(2019, 12, 31, 19, tzinfo=datetime.timezone(datetime.timedelta(hours=-5))),
    ],
    ids=repr,
)
def test_times_without_a_zone_are_utc_wherever_the_machine_is(tmp_path, new_york, given):
    assert time.timezone == 5 * 3600
    with StoreWriter(tmp_path / "s", "run", shard_bytes=1 << 20) as writer:
        writer.append({"key": key(0), "created_at": given}, None, "", None)
    assert Store(tmp_path / "s").table["created_at"].to_pylist() == [datetime.datetime(2020, 1, 1, tzinfo=UTC)]


def leave_journal(store: Path, row: dict) -> None:
    """An unsealed shard with one sample, whatever its row."""
    (store / "shards").mkdir()
    writer = _C.ShardWriter(str(store / "shards/000000.tar.tmp"), str(store / "shards/000000.journal"))
    writer.append(row["key"], "png", b"image", 1, orjson.dumps(row), b"")
    writer.close()


def test_a_journal_that_holds_such_values_is_recovered_and_sealed(tmp_path):
    """Earlier versions journalled them and could not seal the shard."""
    row = {"key": key(0), "class_id": 3.0, "text_score": True, "created_at": 1_577_836_800_000_000, "place": "Graz"}
    leave_journal(tmp_path, row)
    with StoreWriter(tmp_path, "run", shard_bytes=1 << 20):
        pass
    (found,) = Store(tmp_path).table.to_pylist()
    made = datetime.datetime(2020, 1, 1, tzinfo=UTC)
    expected = row | {"class_id": 3, "text_score": 1.0, "created_at": made, "status": None}
    assert {name: found[name] for name in expected} == expected


def test_a_journal_whose_values_fit_no_column_is_refused_by_name(tmp_path):
    leave_journal(tmp_path, {"key": key(0), "class_id": "three"})
    with pytest.raises(StoreError, match=r"journal: a record is no row of an index: .* class_id is 'three'"):
        StoreWriter(tmp_path, "run", shard_bytes=1 << 20).__enter__()
