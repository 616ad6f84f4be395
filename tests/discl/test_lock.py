"""One coordinator per store, also where flock is not to be trusted: then the lease alone must do."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from discl import atomic
from discl.errors import StoreError
from discl.store import Store, StoreWriter, verify
from discl.store.lock import WriterLock
from tests.discl.store_samples import fill, key, sample

QUICK = {"heartbeat_s": 0.05, "stale_s": 0.5}
HOLD = """
import sys, time
from pathlib import Path
from discl.store.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]), "run-7", heartbeat_s=0.05)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["flock", "no flock", "flock lies"])
def flock(request, monkeypatch):
    """As on a local disk; on a file system without locks; on one whose locks stay on their host."""
    if request.param == "no flock":
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    if request.param == "flock lies":
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    return request.param


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the store."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def elsewhere(root) -> None:
    """Let the lease look like one of another host."""
    lease = root / ".writer.lease"
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"host": "far", "system": "other"}))


def test_the_second_learns_who_the_first_is(tmp_path, holder, flock):
    pattern = (
        rf"is being written by process {holder.pid} on {socket.gethostname()}, run run-7, since 20\S+; wait for it"
    )
    with pytest.raises(StoreError, match=pattern):
        WriterLock(tmp_path, **QUICK)


def test_a_killed_holder_is_taken_over_at_once(tmp_path, holder, flock):
    holder.kill()  # not waited for: a zombie is dead too
    time.sleep(0.1)
    WriterLock(tmp_path, stale_s=60).release()
    assert not (tmp_path / ".writer.lease").exists()


def test_a_killed_holder_on_another_host_is_taken_over_when_his_beat_stands_still(tmp_path, holder, flock):
    holder.kill()
    holder.wait()
    elsewhere(tmp_path)
    begin = time.monotonic()
    WriterLock(tmp_path, **QUICK).release()
    assert time.monotonic() - begin >= QUICK["stale_s"]


def test_a_living_holder_on_another_host_is_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    first = WriterLock(tmp_path, **QUICK)
    first._mine |= {"host": "far", "system": "other"}
    time.sleep(0.2)
    with pytest.raises(StoreError, match=rf"process {os.getpid()} on far"):
        WriterLock(tmp_path, **QUICK)
    first.check()
    first.release()


def test_who_stood_still_for_too_long_is_told_and_harms_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    sleeper = WriterLock(tmp_path, "sleeper", heartbeat_s=60)
    elsewhere(tmp_path)
    taker = WriterLock(tmp_path, "taker", **QUICK)
    sleeper._beat_once()
    with pytest.raises(StoreError, match=r"stood still .* the lease went to process .* run taker"):
        sleeper.check()
    sleeper.release()
    time.sleep(0.2)
    taker.check()
    with pytest.raises(StoreError, match="run taker"):
        WriterLock(tmp_path, **QUICK)
    taker.release()


def test_a_writer_that_lost_its_lease_publishes_nothing(tmp_path):
    with (
        pytest.raises(StoreError, match="the lease went to"),
        StoreWriter(tmp_path, "run", shard_bytes=10**6) as writer,
    ):
        writer.append(*sample(0))
        (tmp_path / ".writer.lease").write_text(json.dumps({"token": "thief", "pid": 1, "host": "far", "since": "now"}))
        writer._lock._beat_once()
        with pytest.raises(StoreError, match="the lease went to process 1 on far"):
            writer.append(*sample(1))
    assert len(Store(tmp_path)) == 0
    assert json.loads((tmp_path / ".writer.lease").read_text())["token"] == "thief", "his lease is left alone"


def test_a_sleeper_who_wakes_up_writes_to_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(WriterLock.__init__, "__defaults__", ("", 60.0, 0.5))
    sleeper = StoreWriter(tmp_path, "sleeper", shard_bytes=10**6)
    sleeper.__enter__()
    for i in range(3):
        sleeper.append(*sample(i))
    sleeper.flush()
    elsewhere(tmp_path)
    with StoreWriter(tmp_path, "taker", shard_bytes=10**6) as taker:
        assert len(taker.keys) == 3
        for i in (3, 4):
            sleeper.append(*sample(i))
            taker.append(*sample(i + 10))
        sleeper._shard.flush()
        taker.flush()
    assert verify(tmp_path) == []
    assert set(Store(tmp_path).keys()) == {key(i) for i in (0, 1, 2, 13, 14)}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_record_that_cannot_be_read_is_given_time(tmp_path, content):
    """It may be in the making; if nothing comes of it, it is nobody's."""
    (tmp_path / ".writer.lease").write_bytes(content)
    WriterLock(tmp_path, **QUICK).release()


@pytest.mark.parametrize("function", ["link", "rename"])
def test_what_a_kill_left_of_a_lease_goes_with_the_next_writer(tmp_path, function, flock):
    """Killed while it put its lease, or while it put the one of a dead writer away; what is younger may be in use."""
    (tmp_path / ".writer.lease").write_text("{}")
    os.utime(tmp_path / ".writer.lease", (0, 0))
    dies = f"""
import os, signal
one = os.{function}
def die(*names):
    one(*names)
    os.kill(os.getpid(), signal.SIGKILL)
os.{function} = die
""" + HOLD.replace("heartbeat_s=0.05", "stale_s=0.1")
    subprocess.run([sys.executable, "-c", dies, tmp_path])
    (left,) = tmp_path.glob(".*.tmp")
    (young := tmp_path / ".writer.lease.1234.tmp").touch()
    os.utime(left, (0, 0))
    WriterLock(tmp_path, **QUICK).release()
    assert not left.exists() and young.exists()


def test_two_that_see_a_stale_lease_do_not_both_take_it(tmp_path, monkeypatch):
    """The slower one finds a newer lease in his hands than he saw, and puts it back."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    lease = tmp_path / ".writer.lease"
    lease.write_bytes(b'{"token": "stale"}')
    seen = lease.read_bytes()
    lease.unlink()
    first = WriterLock(tmp_path, "first", **QUICK)
    slower = WriterLock.__new__(WriterLock)
    slower.root, slower._lease, slower._mine = tmp_path, lease, {"token": "slower"}
    with pytest.raises(StoreError, match="run first"):
        slower._remove(seen)
    time.sleep(0.2)
    first.check()
    first.release()


def test_many_at_once_and_one_gets_it(tmp_path, flock):
    start = time.monotonic() + 0.5
    out, children = multiprocessing.get_context("fork").SimpleQueue(), []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            while time.monotonic() < start:
                pass
            try:
                WriterLock(tmp_path)
                out.put("held")
                signal.pause()
            except StoreError:
                out.put("refused")
            finally:
                os._exit(0)
        children.append(child)
    try:
        assert sorted(out.get() for _ in children) == ["held"] + ["refused"] * 7
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_store_where_hard_links_are_refused(tmp_path, monkeypatch):
    """The manifest and the lease are then put by claim and rename, and still never over an existing file."""
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    monkeypatch.setattr(atomic, "CLAIM_S", 0.1)
    fill(tmp_path / "s", range(3))
    (tmp_path / "s/manifest/.000001.json.claim").touch()  # of a process that died holding it
    fill(tmp_path / "s", range(6))
    assert len(Store(tmp_path / "s")) == 6
    before = (tmp_path / "s/manifest/000000.json").read_bytes()
    with pytest.raises(FileExistsError):
        atomic.put_if_absent(tmp_path / "s/manifest/000000.json", b"other")
    assert (tmp_path / "s/manifest/000000.json").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "s/manifest").iterdir()) == ["000000.json", "000001.json"]
