"""verify: silent on a good store; every kind of damage is named."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discl.store import Store, verify
from discl.store.manifest import _digest, file_entry
from tests.discl.store_samples import fill, key


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "s", range(12), shard_bytes=10**6)
    return tmp_path / "s"


def rewrite_manifest(root, **changes):
    """As a careful forger would: digests fit, only the content is wrong."""
    path = root / "manifest/000000.json"
    body = json.loads(path.read_text())
    del body["digest"]
    body |= changes
    body["files"] = {name: file_entry(root / name, list(entry)[1]) for name, entry in body["files"].items()}
    path.write_text(json.dumps(body | {"digest": _digest(body)}))


def rewrite_index(root, change):
    path = root / "index/000000.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(change(table), path)
    rewrite_manifest(root)


def changed(table, name, row, value):
    values = table[name].to_pylist()
    values[row] = value
    at = table.schema.names.index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def test_a_good_store_has_no_problems(root):
    assert verify(root) == []


@pytest.mark.parametrize("name", ["shards/000000.tar", "index/000000.parquet", "embeddings/000000.npy"])
def test_a_changed_byte_anywhere(root, name):
    data = (root / name).read_bytes()
    for at in (0, len(data) // 3, len(data) - 1):
        (root / name).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert any(name.rsplit("/")[-1].split(".")[0] in problem for problem in verify(root)), at
    (root / name).write_bytes(data)
    assert verify(root) == []


@pytest.mark.parametrize("name", ["shards/000000.tar", "index/000000.parquet", "embeddings/000000.npy"])
def test_a_missing_file(root, name):
    (root / name).unlink()
    assert f"shard 000000: {name} is missing" in verify(root)


def test_a_cut_tar_is_named_with_its_offset(root):
    tar = root / "shards/000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1024])
    rewrite_manifest(root)
    problems = verify(root)
    assert len(problems) == 1 and "at offset" in problems[0] and "without a footer" in problems[0]


def test_an_image_whose_crc_differs(root):
    tar = root / "shards/000000.tar"
    data = bytearray(tar.read_bytes())
    data[512] ^= 1
    tar.write_bytes(data)
    rewrite_manifest(root)
    problems = verify(root)
    assert len(problems) == 1 and key(0) in problems[0] and "CRC32C" in problems[0]


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("offset", 1024, "the index says"),
        ("length", 1, "the index says"),
        ("crc32c", 1, "CRC32C is"),
        ("key", key(99), "the index says"),
        ("shard", None, "members for"),
        ("shard", 5, "the index says"),
    ],
)
def test_an_index_that_disagrees_with_the_tar(root, name, value, found):
    rewrite_index(root, lambda table: changed(table, name, 0, value))
    assert any(found in problem for problem in verify(root))


def test_a_key_that_occurs_twice(root):
    rewrite_index(root, lambda table: changed(table, "key", 3, key(7)))
    assert f"key {key(7)} occurs 2 times" in verify(root)


def test_an_index_with_a_row_too_few_or_a_column_too_few(root):
    rewrite_index(root, lambda table: table.slice(0, 11))
    assert any("11 rows, the manifest says 12" in problem for problem in verify(root))
    rewrite_index(root, lambda table: table.slice(0, 12).drop_columns(["level"]))
    rewrite_manifest(root, rows=11)
    assert any("its column level is missing" in problem for problem in verify(root))


def test_an_index_from_before_a_column_existed(root):
    rewrite_index(root, lambda table: table.drop_columns(["size_policy"]))
    assert verify(root) == []
    store = Store(root)
    assert store.table["size_policy"].null_count == 12
    assert [batch.schema.names for batch in store.scan(["size_policy", "key"])] == [["size_policy", "key"]]


def test_a_damaged_selection(root):
    Store(root).write_selection("best", [key(0)], {"rule": "ok"})
    assert verify(root) == []
    file = root / "selections/best.parquet"
    file.write_bytes(file.read_bytes().replace(key(0).encode(), key(1).encode()))
    (problem,) = verify(root)
    assert "best.parquet: damaged selection" in problem


def test_embeddings_of_another_length(root):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((11, 4), np.float16))
    (root / "embeddings/000000.npy").write_bytes(buffer.getvalue())
    rewrite_manifest(root)
    (problem,) = verify(root)
    assert "000000.npy: damaged embeddings (they are float16 [11, 4], expected float16 [12, D])" in problem


def test_foreign_names_in_the_tar(root):
    tar = root / "shards/000000.tar"
    data = tar.read_bytes()
    evil = b"../../../../etc/passwd"
    header = bytearray(data[:512])
    header[: len(evil)] = evil
    header[len(evil) : 100] = bytes(100 - len(evil))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar.write_bytes(bytes(header) + data[512:])
    rewrite_manifest(root)
    assert any("'../../../../etc/passwd' does not belong there" in problem for problem in verify(root))


def test_an_unsealed_shard_is_no_damage(root):
    (root / "shards/000001.tar.tmp").write_bytes(b"half")
    (root / "shards/000001.journal").write_bytes(b"half")
    assert verify(root) == []
    assert len(Store(root)) == 12
