"""What a store refuses, and that the message says what was given, what is wrong and what to do."""

import json
import os
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discl.errors import StoreError
from discl.store import Store, StoreWriter, verify
from discl.store.manifest import FORMAT
from tests.discl.fuzz_store import forge_manifests
from tests.discl.store_samples import check, fill, key, sample


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "s", range(20))


def reopened(store):
    return Store(store.path).table


@pytest.mark.parametrize("opened", [Store, verify])
def test_a_folder_that_is_no_store(tmp_path, opened):
    with pytest.raises(StoreError, match=r"is not a discl store .*give one that `discl generate` made"):
        opened(tmp_path)
    with pytest.raises(StoreError, match="is not a discl store"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "damaged manifest"),
        (lambda text: text[: len(text) // 2], "damaged manifest"),
        (lambda text: "[]", "damaged manifest"),
        (lambda text: text.replace('"run_id": "run"', '"run_id": "ruin"'), "its digest differs"),
        (lambda text: json.dumps(json.loads(text) | {"format": FORMAT + 1}), "newer than .*update discl"),
        (lambda text: json.dumps(json.loads(text) | {"surprise": 1}), "damaged manifest"),
    ],
)
def test_a_damaged_or_newer_manifest(store, damage, message):
    path = store.path / "manifest/000000.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(StoreError, match=rf"000000\.json: .*{message}"):
        Store(store.path)
    with pytest.raises(StoreError, match=message):
        fill(store.path, range(1))


def test_a_manifest_under_another_number(store):
    shutil.copy(store.path / "manifest/000000.json", store.path / "manifest/000007.json")
    with pytest.raises(StoreError, match=r"000007\.json: damaged manifest"):
        Store(store.path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: data[:50] + b"x" + data[51:], lambda data: b""]
)
def test_a_damaged_index(store, damage):
    path = store.path / "index/000000.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"000000\.parquet: damaged index \(its (digest|size)"):
        reopened(store)


@pytest.mark.parametrize("microseconds", [2**62, -(2**62), -1 - 62_135_596_800 * 10**6])
def test_a_time_beyond_all_calendars(store, microseconds):
    path = store.path / "index/000000.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("created_at")
    times = pa.array([microseconds] + [0] * (len(table) - 1)).cast(table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), times), path)
    forge_manifests(store.path, random.Random(0), change=False)
    with pytest.raises(StoreError, match=r"000000\.parquet: damaged index .*created_at holds a time beyond"):
        reopened(store)
    with pytest.raises(StoreError, match="created_at"):
        list(Store(store.path).scan())


def test_a_missing_index(store):
    (store.path / "index/000000.parquet").unlink()
    with pytest.raises(StoreError, match=r"damaged index .*No such file"):
        reopened(store)


def test_a_missing_or_damaged_tar(store):
    tar = store.path / "shards/000000.tar"
    data = bytearray(tar.read_bytes())
    data[512] ^= 1
    tar.write_bytes(data)
    with pytest.raises(StoreError, match=f"sample {key(0)} cannot be read: .*000000.tar at offset 512: CRC32C"):
        Store(store.path).read(key(0))
    tar.unlink()
    with pytest.raises(StoreError, match=r"cannot be read: .*discl store verify"):
        Store(store.path).read(key(0))


def test_damaged_embeddings_and_selections(store):
    (store.path / "embeddings/000000.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(StoreError, match="damaged embeddings"):
        Store(store.path).embeddings()
    (store.path / "selections/bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="damaged selection"):
        store.selection("bad")


def test_orphans_do_not_exist_for_readers(store):
    for name in (
        "shards/000099.tar",
        "index/000099.parquet",
        "shards/000098.tar.tmp",
        "manifest/.000099.json.tmp",
    ):
        (store.path / name).write_bytes(b"left behind")
    check(Store(store.path), 20)
    assert verify(store.path) == []
    assert fill(store.path, range(25)).shards[-1].number == 100, "nothing is written over"


def test_a_second_writer_learns_who_the_first_is(tmp_path):
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6) as writer:
        writer.append(*sample(0))
        with pytest.raises(
            StoreError, match=rf"is being written by process {os.getpid()} on .*, run run, since .*; wait for it"
        ):
            fill(tmp_path / "s", [1])
    fill(tmp_path / "s", [1])


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6):
        forked, ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(ready, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(forked, 1)
    try:
        fill(tmp_path / "s", [1])
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_folder_that_cannot_be_written():
    """As another user: root may write anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder, "s"), [0])
        os.chmod(folder, 0o755)
        user = os.geteuid()
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chmod(path, 0o555 if path.is_dir() else 0o444)
        try:
            if user == 0:
                os.seteuid(65534)
            for name in ("s", "new"):
                with pytest.raises(StoreError, match=rf"cannot write to the store .*/{name}: Permission denied"):
                    fill(Path(folder, name), [1])
            assert len(Store(Path(folder, "s"))) == 1, "reading needs no right to write"
            with pytest.raises(StoreError, match=r"cannot write selection 'default'.*Permission denied"):
                Store(Path(folder, "s")).write_selection("default", [], {})
        finally:
            os.seteuid(user)
            for path in (Path(folder), *Path(folder).rglob("*")):
                os.chmod(path, 0o755)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "s").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write to the store"):
        fill(tmp_path / "s", [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "short"}, "'short' is not 32 lowercase hex"),
        ({"key": "../../../../../../../../../../ab"}, "not 32 lowercase hex"),
        ({"key": key(1).upper()}, "not 32 lowercase hex"),
        ({"key": None}, "None is not 32 lowercase hex"),
        ({"lvel": 10}, r"unknown columns \['lvel'\]"),
        ({"level": "ten"}, "column level is 'ten', not int32"),
        ({"level": 2**40}, "column level"),
        ({"source_ids": "abc"}, "column source_ids"),
        ({"created_at": "yesterday"}, "column created_at"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, change, message):
    row = sample(0)[0] | change
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6) as writer:
        with pytest.raises(StoreError, match=message):
            writer.append(row, b"x", "png", None)
        writer.append(*sample(5))
    assert Store(tmp_path / "s").keys() == [key(5)]


def test_samples_that_do_not_fit(tmp_path):
    row = sample(1)[0]
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6, user_columns=["thing"]) as writer:
        writer.append(*sample(0))
        for arguments, message in [
            (sample(0), "is in the store already; skip the keys"),
            ((row, b"x", "gif", None), "'gif'; expected an encoded"),
            ((row, b"", "png", None), "0 bytes of 'png'"),
            ((row, b"x", "png", np.zeros(5)), r"embedding of shape \[5\], expected \[4\]"),
            ((row, b"x", "png", np.zeros((2, 2))), r"embedding of shape \[2, 2\]"),
            ((row | {"thing": object()}, b"x", "png", None), "does not fit JSON"),
        ]:
            with pytest.raises(StoreError, match=message):
                writer.append(*arguments)
    check(Store(tmp_path / "s"), 1)


@pytest.mark.parametrize("names", [["level"], ["shard"], ["a", "a"]])
def test_user_columns_that_are_taken(tmp_path, names):
    with pytest.raises(StoreError, match="used twice"):
        StoreWriter(tmp_path / "s", "run", shard_bytes=10**6, user_columns=names)


def test_a_full_disk_loses_nothing(tmp_path):
    """A file size limit stands in for the disk: it is told, and once there is room everything is written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6) as writer:
        for i in range(5):
            writer.append(*sample(i))
        writer.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            for i in (5, 6):
                writer.append(*sample(i))
            with pytest.raises(StoreError, match=r"cannot sync .*000000\.tar\.tmp at offset .*File too large"):
                writer.flush()
            with pytest.raises(StoreError, match=f"cannot append sample {key(8)} .*File too large"):
                time.sleep(0.1)  # meanwhile it is tried again
                writer.append(*sample(8))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for i in (7, 8):
            writer.append(*sample(i))
    check(Store(tmp_path / "s"), 9)
    assert verify(tmp_path / "s") == []


@pytest.mark.parametrize("path", [None, 3, b"store", ["store"]])
def test_what_cannot_be_a_store_or_a_selection_is_named(store, path):
    with pytest.raises(StoreError, match="give the folder or URL"):
        Store(path)
    with pytest.raises(StoreError, match="selection name"):
        store.selection(path)
