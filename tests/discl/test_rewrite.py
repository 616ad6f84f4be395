"""forget, reshard, compact: what must go is gone to the last byte, the rest is as it was, wherever a process dies."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from discl.cli import main
from discl.errors import StoreError
from discl.quarantine import Quarantine
from discl.store import Store, StoreWriter, verify
from discl.store.forget import REMOVED, forget
from discl.store.resize import compact, reshard
from tests.discl.store_samples import check, fill, key, sample

ROOT = Path(__file__).parents[2]
COUNT = 60
GONE = [i for i in range(COUNT) if i % 5 in (1, 3)]
KEPT = [i for i in range(COUNT) if i not in GONE]


def own(i):
    """Sample i, whose only source is its own: `store_samples` gives all of them a twin."""
    row, *rest = sample(i)
    return (row | {"source_ids": [row["source_id"]]}, *rest)


def make(root: Path) -> Store:
    with StoreWriter(root, "run", shard_bytes=20_000, user_columns=["license"]) as writer:
        for i in range(COUNT):
            row, *rest = own(i)
            writer.append(row | {"license": "cc0" if i % 2 else None}, *rest)
    store = Store(root)
    store.write_selection("default", [key(i) for i in range(COUNT) if i % 4 != 3], {"rule": "ok"})
    return store


def contents(root):
    """key -> (row without its place, image, embedding), and the selection."""
    store = Store(root)
    vectors = store.embeddings()
    found = {}
    for at, row in enumerate(store.table.to_pylist()):
        image = store.read(row["key"]) if row["shard"] is not None else None
        place = ("shard", "offset", "length", "crc32c")
        found[row["key"]] = ({n: v for n, v in row.items() if n not in place}, image, vectors[at].tobytes())
    return found, store.selection("default")


def every_byte(root):
    """Files as they are, and what is compressed in them."""
    for file in Path(root).rglob("*"):
        if file.is_file():
            yield file.read_bytes()
            if file.suffix == ".parquet":
                with pq.ParquetFile(file) as opened:
                    yield repr(opened.read().to_pydict()).encode()


def expect_gone(root):
    data = list(every_byte(root))
    for i in GONE:
        _, image, _, vector = own(i)
        for trace in (key(i).encode(), image, None if vector is None else vector.astype("float16").tobytes()):
            assert trace is None or not any(trace in block for block in data), i
    for name in (b"source-1", b"source-3"):
        assert not any(name in block for block in data), name


@pytest.fixture
def root(tmp_path):
    make(tmp_path / "s")
    return tmp_path / "s"


def test_forgotten_sources_leave_no_byte_and_the_rest_is_as_it_was(root, tmp_path):
    before, selected = contents(root)
    Quarantine(root, 9, 1.0).record([("/data/source-1", "torn"), ("/data/source-2", "torn"), ("/x/source-11", "torn")])
    (root / "scores/other").mkdir(parents=True)
    pq.write_table(Store(root).table.select(["key", "margin"]), root / "scores/other/000000.parquet")
    (tmp_path / "list.txt").write_text("source-1\n\nsource-3\nnever-there\n")
    assert main(["store", "forget", str(root), "--source", str(tmp_path / "list.txt")]) == 0
    text = (root / "quarantine.jsonl").read_text()
    assert '/data/source-1"' not in text and "source-2" in text and "source-11" in text
    (root / "quarantine.jsonl").unlink()
    expect_gone(root)
    after, still = contents(root)
    assert after == {name: value for name, value in before.items() if name in {key(i) for i in KEPT}}
    assert still == [name for name in selected if name in after]
    assert verify(root) == [] and not (root / ".rewrite").exists()
    with pq.ParquetFile(root / "scores/other/000000.parquet") as scores:
        assert set(scores.read()["key"].to_pylist()) == set(after)


def test_a_forgotten_snapshot_is_refused_and_others_stay(root):
    early = Store(root).snapshot()
    forget(root, ["source-1"])
    between = Store(root).snapshot()
    with pytest.raises(StoreError, match="contains samples that were forgotten since"):
        Store(root, at=early)
    with pytest.raises(StoreError, match="is no state of this store"):
        Store(root, at="000001-" + "0" * 32)
    fill(root, range(100, 110))
    assert len(Store(root, at=between)) == COUNT - 12
    assert len(Store(root)) == COUNT - 2


def test_an_image_of_two_sources_goes_with_either(tmp_path):
    fill(tmp_path / "s", range(12))
    assert forget(tmp_path / "s", ["twin"]) == 12
    assert len(Store(tmp_path / "s")) == 0
    assert len(fill(tmp_path / "s", range(12))) == 12
    assert verify(tmp_path / "s") == []


def test_unsealed_samples_are_forgotten_too(root):
    writer = StoreWriter(root, "run", shard_bytes=10**9)
    writer.__enter__()
    for i in range(COUNT, COUNT + 10):
        writer.append(*own(i))
    writer.flush()
    writer._lock.release()
    assert forget(root, ["source-1", "source-3"]) == len(GONE) + 4
    expect_gone(root)
    assert len(Store(root)) == len(KEPT) + 6


def test_a_misspelt_list_is_an_error(root, capfd):
    assert main(["store", "forget", str(root), "--source", "lst.txt"]) == 2
    assert "neither a source id" in capfd.readouterr().err


def test_a_source_that_was_never_sealed_is_forgotten_by_its_name(root, capfd):
    writer = StoreWriter(root, "run", shard_bytes=10**9)
    writer.__enter__()
    row, *rest = own(COUNT)
    writer.append(row | {"source_id": "late", "source_ids": ["late"]}, *rest)
    writer.flush()
    writer._lock.release()
    assert main(["store", "forget", str(root), "--source", "late"]) == 0
    assert "1 samples of 1 sources are gone" in capfd.readouterr().err
    assert not any(b'"late"' in block for block in every_byte(root)) and len(Store(root)) == COUNT


def test_records_do_not_say_that_a_forgotten_source_failed(root):
    told = "DataError: /data/{}: cannot be read"
    errors = [{"worker": "w", "reason": f"bad image {name}, and more"} for name in ("source-1", "source-2")]
    runs = {
        "a": {"status": "failed", "failure": told.format("source-1"), "usd": 2.5},
        "b": {"status": "failed", "failure": told.format("source-11"), "errors": []},
        "odd": {"status": "failed", "failure": 5, "errors": [{"reason": told.format("source-1")}]},
        "c": {"status": "done", "errors": errors, "note": "ü"},
    }
    (root / "runs").mkdir(exist_ok=True)
    for name, record in runs.items():
        (root / f"runs/{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False))
    (root / "runs/torn.json").write_text('{"status": ')
    untouched = (root / "runs/b.json").read_bytes()
    forget(root, ["source-1", "source-3"])
    expected = {
        "a": runs["a"] | {"failure": REMOVED},
        "odd": runs["odd"] | {"errors": [{"reason": REMOVED}]},
        "c": runs["c"] | {"errors": [errors[0] | {"reason": REMOVED}, errors[1]]},
    }
    for name, record in expected.items():
        assert json.loads((root / f"runs/{name}.json").read_text()) == record
    assert (root / "runs/b.json").read_bytes() == untouched


@pytest.mark.parametrize("at", [4, 63, 75, 87, 95])
def test_the_same_command_finishes_a_killed_forget(root, at):
    """Also once no sample knows the sources any more."""
    (root / "runs").mkdir(exist_ok=True)
    (root / "runs/r.hard.txt").write_bytes(b"source-1\nsource-2\n\xffdamaged\n")
    kill(root, "forget", at)
    assert main(["store", "forget", str(root), "--source", "source-1", "--source", "source-3"]) == 0
    expect_gone(root)
    assert verify(root) == [] and not list(root.glob(".forgetting"))
    assert (root / "runs/r.hard.txt").read_bytes() == b"source-2\n\xffdamaged\n"
    assert main(["store", "forget", str(root), "--source", "source-1"]) == 2, "nothing of it is there"


def test_what_killed_processes_left_goes_too(root):
    for name in ("runs/.r.txt.1.tmp", "selections/.a.parquet.1.tmp", ".quarantine.jsonl.1.tmp", "manifest/.0.1.tmp"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("source-1")
    forget(root, ["source-1", "source-3"])
    expect_gone(root)


def test_reshard_keeps_samples_and_their_order(root):
    before, keys = contents(root), Store(root).keys()
    assert reshard(root, 200_000) == 1
    assert reshard(root, 9_000) > 5
    assert (contents(root), Store(root).keys()) == (before, keys)
    assert verify(root) == []


def test_compact_joins_small_shards_and_removes_strangers(root):
    before = contents(root)
    (root / "shards/000900.tar").write_bytes(b"no manifest names me")
    (root / "shards/notes.txt").write_text("mine")
    assert main(["store", "compact", str(root), "--shard-mb", "10"]) == 0
    assert len(Store(root).shards) == 1
    assert not (root / "shards/000900.tar").exists() and (root / "shards/notes.txt").exists()
    assert contents(root) == before
    check_again = Store(root).snapshot()
    compact(root, 10_000_000)
    assert Store(root).snapshot() == check_again, "nothing to join: nothing changes"


# Dies just before its n-th change of a file below the store (open for writing, rename, link, unlink, mkdir, rmdir).
DIE = """
import os, sys
from pathlib import Path
from discl.store.forget import forget
from discl.store.resize import reshard

root, left, command = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def watch(event, args):
    global left
    changes = args[2] & os.O_CREAT if event == "open" else event in CHANGES
    if changes and root in str(args[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
sys.addaudithook(watch)
if command == "forget":
    forget(root, ["source-1", "source-3"])
else:
    reshard(root, 40_000)
"""


def kill(root, command, at):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(root), str(at), command], env=environment, capture_output=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


def survives(root, tmp_path, command, kills, seed):
    print(f"seed {seed}")
    rng, before = random.Random(seed), contents(root)
    kept = {name: value for name, value in before[0].items() if name in {key(i) for i in KEPT}}
    points = [rng.randrange(2, 95) for _ in range(kills)]
    died = 0
    for at in points:
        died += kill(root, command, at)
        found = contents(root)[0]
        assert found in ((before[0], kept) if command == "forget" else (before[0],)), f"half a rewrite, killed at {at}"
    again = forget(root, ["source-1", "source-3"]) if command == "forget" else reshard(root, 40_000)
    assert again is not None and verify(root) == [] and not (root / ".rewrite").exists()
    if command == "forget":
        expect_gone(root)
        assert contents(root)[0] == kept
    return died


@pytest.mark.parametrize("command", ["forget", "reshard"])
def test_kills(root, tmp_path, command):
    assert survives(root, tmp_path, command, 4, random.randrange(2**32))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["forget", "reshard"])
def test_a_kill_before_every_third_change(tmp_path, command):
    at, died = random.randrange(3), True
    print(f"from {at}")
    while died:
        root = tmp_path / str(at)
        make(root)
        died = kill(root, command, at)
        forget(root, ["source-1", "source-3"])
        expect_gone(root)
        assert verify(root) == []
        assert set(Store(root).keys()) == {key(i) for i in KEPT}
        at += 3
    assert at > 40, "the hook saw too little"


def test_a_forget_after_a_killed_reshard_leaves_nothing(root, tmp_path):
    for at in (40, 55, 62):
        kill(root, "reshard", at)
    forget(root, ["source-1", "source-3"])
    expect_gone(root)
    assert verify(root) == []


def test_the_samples_of_the_store_are_the_ones_that_are_checked(tmp_path):
    fill(tmp_path / "s", range(20))
    reshard(tmp_path / "s", 9_000)
    check(Store(tmp_path / "s"), 20)
