"""merge: every sample once, in order; a conflict is named before anything is written; kills are survived."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from discl.cli import main
from discl.errors import StoreError
from discl.store import Store, StoreWriter, verify
from discl.store.merge import merge
from tests.discl.store_samples import check, fill, key, sample


def choose(store, numbers, rule="ok"):
    store.write_selection("default", [key(i) for i in numbers if i % 4 != 3], {"rule": rule})


def test_equal_keys_once(tmp_path):
    choose(fill(tmp_path / "a", range(30)), range(30))
    choose(fill(tmp_path / "b", range(20, 50)), range(20, 50))
    assert main(["store", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(tmp_path / "c")]) == 0
    merged = Store(tmp_path / "c")
    check(merged, 50)
    assert merged.keys() == [key(i) for i in range(50)]
    assert merged.selection("default") == sorted(key(i) for i in range(50) if i % 4 != 3)
    assert verify(tmp_path / "c") == []
    assert len(merge([tmp_path / "a"], tmp_path / "c", 10**6)) == 50, "again: nothing new"


def test_different_bytes_are_an_error_that_names_both(tmp_path):
    fill(tmp_path / "a", range(4))
    with StoreWriter(tmp_path / "b", "run", shard_bytes=10**6) as writer:
        writer.append(sample(0)[0], b"other", "png", None)
    with pytest.raises(StoreError, match=rf"{key(0)} has different bytes in .*a and .*b"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", 10**6)
    assert not (tmp_path / "c").exists()


def test_an_image_wins_over_none(tmp_path):
    with StoreWriter(tmp_path / "a", "run", shard_bytes=10**6) as writer:
        writer.append(sample(0)[0], None, "", None)
    fill(tmp_path / "b", range(3))
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", 10**6)
    assert merged.read(key(0)) == sample(0)[1] and len(merged) == 3


def test_an_image_that_has_no_place_is_an_error_before_anything_is_written(tmp_path):
    with StoreWriter(tmp_path / "a", "run", shard_bytes=10**6) as writer:
        writer.append(sample(0)[0], None, "", None)
    fill(tmp_path / "b", range(3))
    merge([tmp_path / "a"], tmp_path / "c", 10**6)
    with pytest.raises(StoreError, match=rf"{key(0)} has no image in .*c and one in .*b; merge both into a new store"):
        merge([tmp_path / "b"], tmp_path / "c", 10**6)
    assert Store(tmp_path / "c").keys() == [key(0)]
    assert len(merge([tmp_path / "a"], tmp_path / "b", 10**6)) == 3, "one without an image takes nothing away"


def test_quarantine_lines_come_along_but_for_a_torn_one(tmp_path):
    fill(tmp_path / "a", range(3))
    (tmp_path / "a/quarantine.jsonl").write_text('{"path": "x", "reason": "y"}\n{"path": "z", "rea')
    merge([tmp_path / "a"], tmp_path / "c", 10**6)
    assert (tmp_path / "c/quarantine.jsonl").read_text() == '{"path": "x", "reason": "y"}\n'


def test_selections_of_different_rules_are_left_out(tmp_path, caplog):
    for name, numbers in (("a", range(4)), ("b", range(4, 8))):
        choose(fill(tmp_path / name, numbers), numbers, name)
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", 10**6)
    assert "different rules" in caplog.text
    with pytest.raises(StoreError, match="no selection"):
        merged.selection("default")


def test_kills(tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    fill(tmp_path / "a", range(60))
    fill(tmp_path / "b", range(40, 100))
    script = (
        "import os, sys\nfrom discl.store.merge import merge\n"
        "def die(event):\n    if event['done'] == int(sys.argv[4]): os.kill(os.getpid(), 9)\n"
        "merge(sys.argv[1:3], sys.argv[3], 20_000, die)\n"
    )
    names = [str(tmp_path / name) for name in "abc"]
    for at in random.Random(seed).sample(range(1, 120), 3):
        done = subprocess.run([sys.executable, "-c", script, *names, str(at)], env=os.environ | {"PYTHONPATH": "."})
        assert done.returncode == -signal.SIGKILL
    check(merge(names[:2], names[2], 20_000), 100)
    assert verify(names[2]) == []


def test_parts_of_other_slots_or_threads_are_said(tmp_path, caplog):
    for name, threads in {"a": 2, "b": 2, "c": 4}.items():
        fill(tmp_path / name, [len(name), ord(name)])
        record = {"run_id": name, "recipe_digest": "r", "slots": 3, "threads": threads}
        (tmp_path / name / "runs" / f"{name}.json").write_text(json.dumps(record))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "equal", 10**6)
    assert not caplog.records
    merge([tmp_path / "equal", tmp_path / "c"], tmp_path / "mixed", 10**6)
    assert "3 slots and 2 CPU threads, 3 slots and 4 CPU threads" in caplog.text
