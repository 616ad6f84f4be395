"""Store.scan against the whole table: the same rows, piece by piece."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from discl.errors import StoreError
from discl.store import Store, StoreWriter
from tests.discl.store_samples import fill, sample


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("scan") / "s", range(60), shard_bytes=10_000)


@pytest.mark.parametrize("rows", [1, 7, 1 << 16])
@pytest.mark.parametrize("columns", [None, ["key"], ["margin", "key", "offset"]])
def test_all_rows_in_order(store, rows, columns):
    batches = list(store.scan(columns, rows=rows))
    assert max(map(len, batches)) <= rows and len(batches) >= len(store.shards) > 3
    expected = store.table if columns is None else store.table.select(columns)
    assert pa.Table.from_batches(batches).equals(expected.combine_chunks())


@pytest.mark.parametrize(
    ("filter", "mask"),
    [
        ([("level", "=", 30)], pc.field("level") == 30),
        (
            [("level", "in", [0, 10]), ("status", "!=", "ok")],
            pc.field("level").isin([0, 10]) & (pc.field("status") != "ok"),
        ),
        ([[("class_id", "<", 1)], [("level", ">", 30)]], (pc.field("class_id") < 1) | (pc.field("level") > 30)),
        ([("level", "=", 99)], pc.field("level") == 99),
    ],
)
def test_filtered_rows(store, filter, mask):
    found = list(store.scan(["key", "status"], filter, rows=9))
    assert all(batch.schema.names == ["key", "status"] for batch in found)
    keys = [key for batch in found for key in batch["key"].to_pylist()]
    assert keys == store.table.filter(mask)["key"].to_pylist()


def test_columns_of_one_run_are_null_in_the_others(tmp_path):
    fill(tmp_path / "s", range(3))
    with StoreWriter(tmp_path / "s", "two", shard_bytes=10**6, user_columns=["licence"]) as writer:
        writer.append(sample(5)[0] | {"licence": "cc0"}, None, "", None)
    store = Store(tmp_path / "s")
    assert [batch["licence"].to_pylist() for batch in store.scan(["licence"])] == [[None] * 3, ["cc0"]]
    assert sum(map(len, store.scan(["key"], [("licence", "=", "cc0")]))) == 1


@pytest.mark.parametrize(
    ("columns", "filter", "message"),
    [
        (["kye"], None, r"no shard has the columns \['kye'\]"),
        (["key"], [("lvel", "=", 1)], r"no shard has the columns \['lvel'\]"),
        (["key"], [("level", "~", 1)], "is not a list like"),
        (["key"], "level = 1", "is not a list like"),
        (["key"], [("level", "=", "ten")], "filter"),
    ],
)
def test_what_cannot_be_scanned(store, columns, filter, message):
    with pytest.raises(StoreError, match=message):
        list(store.scan(columns, filter))


def test_an_empty_store(tmp_path):
    assert list(fill(tmp_path / "s", []).scan()) == []
