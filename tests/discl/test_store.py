"""Store and StoreWriter: what goes in comes out, across shards, runs, snapshots and processes."""

import copy
import json
import os
import pickle
import tarfile
import threading

import numpy as np
import pyarrow as pa
import pytest

from discl.errors import StoreError
from discl.store import Store, StoreWriter, encode_image, verify
from discl.store.columns import SCHEMA
from tests.discl.store_samples import check, fill, key, sample

COLUMNS = """key run_id recipe created_at source_id source_ids source_digest class_id class_name level seed
retry attempt_of noise_seed prompt text_score image_score margin status reason control rejected_at shard offset length
crc32c
width height size_policy"""


def test_what_goes_in_comes_out(tmp_path):
    store = fill(tmp_path / "s", range(60))
    assert len(store) == 60 and len(store.shards) > 2
    check(store, 60)
    assert verify(tmp_path / "s") == []


def test_the_index_has_the_contracts_columns(tmp_path):
    table = fill(tmp_path / "s", range(5)).table
    assert table.schema.names == COLUMNS.split()
    assert table.schema.equals(SCHEMA)
    assert table["prompt"].null_count == 5, "what a row lacks is null"
    assert set(table["run_id"].to_pylist()) == {"run"}
    assert table["created_at"].null_count == 0


def test_layout_on_disk(tmp_path):
    fill(tmp_path / "s", range(4))
    files = {str(path.relative_to(tmp_path / "s")) for path in (tmp_path / "s").rglob("*") if path.is_file()}
    numbered = {"manifest/000000.json", "shards/000000.tar", "index/000000.parquet", "embeddings/000000.npy"}
    assert files == numbered | {".writer.lock"}
    assert np.load(tmp_path / "s/embeddings/000000.npy", allow_pickle=False).dtype == np.float16


def test_an_empty_run_leaves_an_empty_store(tmp_path):
    store = fill(tmp_path / "s", [])
    assert (len(store), store.keys(), store.table.schema) == (0, [], SCHEMA)
    assert verify(tmp_path / "s") == []
    assert os.listdir(tmp_path / "s/shards") == []


def test_extending_keeps_what_is_there(tmp_path):
    before = fill(tmp_path / "s", range(30), run_id="one")
    bytes_before = {path: path.read_bytes() for path in (tmp_path / "s/shards").iterdir()}
    store = fill(tmp_path / "s", range(50), run_id="two")
    check(store, 50)
    assert store.table["run_id"].to_pylist() == ["one"] * 30 + ["two"] * 20
    assert all(path.read_bytes() == data for path, data in bytes_before.items())
    assert len(before) == 30, "an open store is a view that never changes"


def test_bytes_per_key_do_not_depend_on_the_run(tmp_path):
    """Other run, other order, other shards: every tar member is the same."""

    def members(path):
        found = {}
        for shard in path.glob("shards/*.tar"):
            with tarfile.open(shard) as tar:
                found |= {member.name: tar.extractfile(member).read() for member in tar}
        return found

    fill(tmp_path / "a", range(30), run_id="one", shard_bytes=10_000)
    fill(tmp_path / "b", reversed(range(30)), run_id='"two","key":"', shard_bytes=10**9)
    assert members(tmp_path / "a") == members(tmp_path / "b")


def test_the_tars_json_is_the_row(tmp_path):
    fill(tmp_path / "s", range(2))
    with tarfile.open(tmp_path / "s/shards/000000.tar") as tar:
        row = json.load(tar.extractfile(f"{key(1)}.json"))
    given = sample(1)[0]
    assert {name: row[name] for name in given} == given
    assert "run_id" not in row and "created_at" not in row


def test_snapshots_stay_resolvable_while_the_store_grows(tmp_path):
    first = fill(tmp_path / "s", range(20)).snapshot()
    second = fill(tmp_path / "s", range(45)).snapshot()
    assert first != second and Store(tmp_path / "s").snapshot() == second
    old = Store(tmp_path / "s", at=first)
    check(old, 20)
    assert old.snapshot() == first
    with pytest.raises(StoreError, match=f"sample {key(30)} is not in"):
        old.read(key(30))


@pytest.mark.parametrize("at", ["", "latest", "000001-" + "0" * 32, "000099-" + "0" * 32])
def test_a_snapshot_that_never_was(tmp_path, at):
    fill(tmp_path / "s", range(3))
    with pytest.raises(StoreError, match="snapshot"):
        Store(tmp_path / "s", at=at)


def test_images_come_back_as_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6) as writer:
        for i, format in enumerate(["png", "jpg", "webp"]):
            writer.append({"key": key(i), "status": "ok"}, encode_image(pixels, format), format, None)
    store = Store(tmp_path / "s")
    np.testing.assert_array_equal(store.image(key(0)), pixels)
    assert all(store.image(key(i)).shape == pixels.shape for i in (1, 2))


def test_a_sample_without_an_image(tmp_path):
    store = fill(tmp_path / "s", range(4))
    with pytest.raises(StoreError, match=f"sample {key(3)} has no image: its status is 'rejected-early'"):
        store.read(key(3))


def test_a_shard_of_rejected_samples_only(tmp_path):
    store = fill(tmp_path / "s", [3, 7, 11])
    assert store.shards[0].images == 0 and store.table["shard"].null_count == 3
    assert verify(tmp_path / "s") == []


def test_rows_without_images_fill_shards_too(tmp_path):
    store = fill(tmp_path / "s", range(3, 400, 4), shard_bytes=10_000)
    assert len(store.shards) > 3


def test_user_columns_follow_the_index_and_may_differ_between_runs(tmp_path):
    rows = [
        {"licence": "cc0", "iso": 100},
        {"licence": None, "iso": 0.5},
        {"patient": "p1"},
        {"mixed": 1},
        {"mixed": "x"},
    ]
    for names, numbers in [(("licence", "iso"), (0, 1)), (("patient",), (2,)), (("mixed",), (3, 4))]:
        with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6, user_columns=names) as writer:
            for i in numbers:
                writer.append(sample(i)[0] | rows[i], None, "", None)
    table = Store(tmp_path / "s").table
    assert table.schema.names[len(SCHEMA) :] == ["licence", "iso", "patient", "mixed"]
    assert table.select(["licence", "iso", "patient", "mixed"]).to_pylist() == [
        {"licence": "cc0", "iso": 100.0, "patient": None, "mixed": None},
        {"licence": None, "iso": 0.5, "patient": None, "mixed": None},
        {"licence": None, "iso": None, "patient": "p1", "mixed": None},
        {"licence": None, "iso": None, "patient": None, "mixed": "1"},
        {"licence": None, "iso": None, "patient": None, "mixed": "x"},
    ]


def test_scores_that_are_not_numbers_are_null(tmp_path):
    row = sample(0)[0] | {"text_score": float("nan"), "margin": np.float32("inf"), "image_score": None}
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6) as writer:
        writer.append(row, b"x", "png", None)
    assert Store(tmp_path / "s").table.select(["text_score", "margin", "image_score"]).to_pylist() == [
        {"text_score": None, "margin": None, "image_score": None}
    ]


def test_embeddings_can_be_left_out(tmp_path):
    store = fill(tmp_path / "s", range(8), embeddings=False)
    assert os.listdir(tmp_path / "s/embeddings") == []
    with pytest.raises(StoreError, match="embeddings of widths"):
        store.embeddings()


def test_selections(tmp_path):
    store = fill(tmp_path / "s", range(12))
    rule = {"threshold": 0.3, "per_class": {"é": 0.1}}
    store.write_selection("default", [key(2), key(0), key(2)], rule)
    again = Store(tmp_path / "s")
    assert again.selection("default") == sorted([key(0), key(2)])
    assert again.selection_rule("default") == rule
    again.write_selection("default", [], {})
    assert again.selection("default") == []


def test_a_selection_shows_only_the_snapshots_keys(tmp_path):
    before = fill(tmp_path / "s", range(6)).snapshot()
    fill(tmp_path / "s", range(12)).write_selection("default", [key(1), key(10)], {})
    assert Store(tmp_path / "s", at=before).selection("default") == [key(1)]


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("../evil", [], "selection name '../evil'"),
        ("", [], "selection name ''"),
        ("default", [key(99)], f"sample {key(99)} is not in"),
        ("default", ["nonsense"], "'nonsense' is not 32 lowercase hex"),
        ("default", [key(3)], f"1 samples have no image, the first is {key(3)}"),
    ],
)
def test_selections_that_make_no_sense(tmp_path, name, keys, message):
    with pytest.raises(StoreError, match=message):
        fill(tmp_path / "s", range(4)).write_selection(name, keys, {})


def test_a_selection_that_is_not_there_names_those_that_are(tmp_path):
    store = fill(tmp_path / "s", range(4))
    store.write_selection("strict", [], {})
    with pytest.raises(StoreError, match="no selection 'default'; it has: strict"):
        store.selection("default")


def test_a_shard_is_sealed_by_age(tmp_path):
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**9, shard_seconds=1e-9) as writer:
        for i in range(3):
            writer.append(*sample(i))
    assert [shard.rows for shard in Store(tmp_path / "s").shards] == [1, 1, 1]


def test_an_exception_seals_what_was_written(tmp_path):
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path / "s", "run", shard_bytes=10**9) as writer:
        for i in range(10):
            writer.append(*sample(i))
        raise KeyboardInterrupt
    check(Store(tmp_path / "s"), 10)


def test_a_store_travels_to_other_processes_and_threads(tmp_path):
    store = fill(tmp_path / "s", range(40))
    other = pickle.loads(pickle.dumps(store))
    fill(tmp_path / "s", range(50))
    assert other.snapshot() == store.snapshot() == copy.copy(store).snapshot()
    failures = []

    def read_all():
        try:
            check(other, 40)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_times_and_numpy_values_survive(tmp_path):
    row = {
        "key": key(0),
        "created_at": "2026-01-02T03:04:05+02:00",
        "class_id": np.int64(7),
        "control": np.bool_(True),
    }
    with StoreWriter(tmp_path / "s", "run", shard_bytes=10**6) as writer:
        writer.append(row, None, "", None)
    table = Store(tmp_path / "s").table
    assert table["created_at"].cast(pa.string()).to_pylist() == ["2026-01-02 01:04:05.000000Z"]
    assert (table["class_id"][0].as_py(), table["control"][0].as_py()) == (7, True)
