"""A disk that is full: the message names the file, the room that is left and what to do; nothing is lost."""

import errno
import os
import re
from pathlib import Path

import pytest

from discl import atomic, run_record
from discl.atomic import replaced, write_atomic
from discl.cli import main
from discl.errors import StoreError
from discl.run_record import RunRecord
from discl.store import Store, StoreWriter, verify
from tests.discl.project import FakeEngine, fake, make_project
from tests.discl.store_samples import check, sample

FREE = r"[\d,.]+ of [\d,.]+ MB are free on the disk of {}; make room there or move to a larger disk"


@pytest.fixture
def full(monkeypatch):
    """A switch: while it is on, no whole file becomes durable."""
    switch, fsync = [], os.fsync

    def refusing(descriptor):
        if switch and os.path.isfile(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", refusing)
    return switch


def written(path: Path) -> None:
    with replaced(path) as file:
        file.write(b"new")


@pytest.mark.parametrize("write", [lambda path: write_atomic(path, b"new"), written])
def test_whole_files_are_named_and_stay_as_they_were(tmp_path, full, write):
    (tmp_path / "a").write_bytes(b"old")
    full.append(True)
    with pytest.raises(OSError) as caught:
        write(tmp_path / "a")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_store_says_how_much_is_free_and_goes_on_when_there_is_room(tmp_path, full):
    root = tmp_path / "s"
    told = rf"cannot seal shard 000000 of {root}: .*000000\.\w+'; {FREE.format(root)}; what was written before is kept"
    with pytest.raises(StoreError, match=told), StoreWriter(root, "run", shard_bytes=10**6) as writer:
        for i in range(5):
            writer.append(*sample(i))
        writer.flush()
        full.append(True)
    with pytest.raises(
        StoreError, match=rf"cannot write to the store {root}: .*\.writer\.lease\); {FREE.format(root)}"
    ):
        StoreWriter(root, "run", shard_bytes=10**6).__enter__()
    full.clear()
    with StoreWriter(root, "run", shard_bytes=10**6):
        pass
    check(Store(root), 5)
    assert verify(root) == []


def test_the_command_line_names_file_and_room(tmp_path, full, capfd, monkeypatch, tiny_models):
    """Also where the run's record is the file, and the error is no StoreError."""
    file = make_project(tmp_path, tiny_models)
    write = RunRecord.write
    monkeypatch.setattr(RunRecord, "write", lambda self, status: (full.append(True), write(self, status)))
    assert main(["generate", str(file)]) == 2
    runs = re.escape(str(tmp_path / "store/runs"))
    assert re.search(rf"discl: {runs}/\S+\.json: No space left on device; {FREE.format(runs)}$", last(capfd))


def last(capfd) -> str:
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_a_record_that_cannot_be_written_does_not_hide_the_failure(
    tmp_path, full, monkeypatch, tiny_models, fake_weights
):
    def break_down(engine, requests):
        full.append(True)
        raise RuntimeError("the reason")

    monkeypatch.setattr(FakeEngine, "run", break_down)
    with pytest.raises(RuntimeError, match="the reason"):
        fake(make_project(tmp_path, tiny_models))
    record = RunRecord(tmp_path, run_record.new_run_id(), {})
    with pytest.raises(OSError, match="No space left"):
        record.end("done")
