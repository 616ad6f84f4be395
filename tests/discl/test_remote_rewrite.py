"""compact, reshard, forget behind a URL: as in a folder, through faults and wherever the process dies."""

import random
import shutil
import uuid
from contextlib import suppress

import fsspec
import pytest

from discl.cli import main
from discl.errors import StoreError
from discl.store import Store, StoreWriter, verify
from discl.store.forget import forget
from discl.store.home import Home
from discl.store.resize import compact, reshard
from tests.discl.remote_stores import Flaky, fetched, strangers, write
from tests.discl.store_samples import check
from tests.discl.test_rewrite import COUNT, KEPT, contents, expect_gone, key, own

pytestmark = pytest.mark.usefixtures("quick")


def make(url: str) -> str:
    """The samples of `test_rewrite` in small shards, and a selection."""
    with Home(url) as home:
        with StoreWriter(home.folder, "run", shard_bytes=20_000, on_sealed=home.send) as writer:
            for i in range(COUNT):
                writer.append(*own(i))
        Store(home.folder).write_selection("default", [key(i) for i in range(COUNT) if i % 4 != 3], {"rule": "ok"})
    return url


def new_url() -> str:
    return make(f"flaky://{uuid.uuid4().hex}/store")


def test_compact_joins_what_many_short_shards_have_left():
    url = new_url()
    before, small, snapshot = contents(url), len(Store(url).shards), Store(url).snapshot()
    assert main(["store", "compact", url, "--shard-mb", "10"]) == 0
    assert (small > 3) and len(Store(url).shards) == 1
    assert contents(url) == before and verify(url) == [] and strangers(url) == []
    with pytest.raises(StoreError, match=r"shards that were replaced since \(discl store compact"):
        Store(url, at=snapshot)
    again = Store(url).snapshot()
    assert compact(url, 10_000_000) == 1 and Store(url).snapshot() == again
    assert len(Store(url, at=again)) == COUNT


def test_forgotten_sources_leave_no_byte_there_nor_here(tmp_path):
    url = new_url()
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/shards/000900.tar", key(1).encode())  # an upload that was never entered
    files.pipe_file(f"{root}/runs/r.hard.txt", b"source-1\nsource-2\n")
    files.pipe_file(f"{root}/runs/r.json", b'{"failure": "DataError: source-1: cannot be read"}')
    assert Store(url).read(key(1)), "a reader's copy"
    assert main(["store", "forget", url, "--source", "source-1", "--source", "source-3"]) == 0
    expect_gone(fetched(url, tmp_path))
    for locks in (tmp_path / "cache").rglob("locks"):  # empty files
        shutil.rmtree(locks)
    expect_gone(tmp_path / "cache")
    assert set(Store(url).keys()) == {key(i) for i in KEPT} and verify(url) == [] and strangers(url) == []
    assert set(Store(url).selection("default")) <= set(Store(url).keys())
    assert files.cat_file(f"{root}/runs/r.hard.txt") == b"source-2\n"


def test_a_misspelt_source_is_an_error(capfd):
    assert main(["store", "forget", new_url(), "--source", "lst.txt"]) == 2
    assert "neither a source id" in capfd.readouterr().err


def test_what_is_no_store_stays_as_it_is(capfd):
    url = f"memory://{uuid.uuid4().hex}/nothing"
    assert main(["store", "compact", url]) == 2
    assert "is not a discl store" in capfd.readouterr().err
    files, root = fsspec.core.url_to_fs(url)
    assert not files.exists(root)


@pytest.mark.parametrize("seed", range(3))
def test_faults_lose_nothing(seed, tmp_path):
    url = new_url()
    before, _ = contents(url)
    Flaky.chance = random.Random(seed)
    reshard(url, 40_000)
    forget(url, ["source-1", "source-3"])
    compact(url, 10_000_000)
    Flaky.chance = None
    assert contents(url)[0] == {name: value for name, value in before.items() if name in {key(i) for i in KEPT}}
    assert verify(url) == [] and strangers(url) == []
    expect_gone(fetched(url, tmp_path))


class Killed(BaseException):
    """The end of a process: nothing after it happens."""


def killed(command, at: int, monkeypatch) -> int:
    """Run the command; it dies of its change number `at` there, before it or half-way through an upload. How many
    changes it has made."""
    made, fault = 0, Flaky._fault

    def die(self, act, torn=None):
        nonlocal made
        if made >= at:
            if made == at and torn:
                torn()
            raise Killed
        made += 1
        fault(self, act, torn)

    with monkeypatch.context() as patch:
        patch.setattr(Flaky, "_fault", die)
        with suppress(Killed):
            command()
    return made


def survives(command: str, another: bool, points, monkeypatch, tmp_path) -> int:
    """A reader always sees all of the old shards or all of the new ones; whoever comes next, anywhere, ends it. How
    many changes an undisturbed command makes."""
    run = {"forget": lambda: forget(url, ["source-1", "source-3"]), "reshard": lambda: reshard(url, 40_000)}[command]
    kept = {key(i) for i in (KEPT if command == "forget" else range(COUNT))}
    for at in points:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{at}"))
        url = new_url()
        before = set(Store(url).keys())
        changes = killed(run, at, monkeypatch)
        seen = Store(url)
        assert set(seen.keys()) in (before, kept) and len(seen) == len(seen.keys()), f"killed at {at}"
        if another:
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{at}-other"))
        run()
        assert set(Store(url).keys()) == kept and verify(url) == [] and strangers(url) == [], f"killed at {at}"
    return changes


@pytest.mark.parametrize("command", ["forget", "reshard"])
def test_kills(command, monkeypatch, tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    changes = survives(command, False, [10**6], monkeypatch, tmp_path)
    assert changes > 20
    survives(command, chance.random() < 0.5, chance.sample(range(changes), 3), monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", ["forget", "reshard"])
@pytest.mark.parametrize("another", [False, True])
def test_a_kill_before_every_change(command, another, monkeypatch, tmp_path):
    changes = survives(command, another, [10**6], monkeypatch, tmp_path)
    survives(command, another, range(changes), monkeypatch, tmp_path)


def test_writing_goes_on_after_another_machine_has_compacted(tmp_path, monkeypatch):
    url = f"flaky://{uuid.uuid4().hex}/store"
    write(url, range(30), tmp_path / "one")
    compact(url, 10_000_000)
    write(url, range(50), tmp_path / "one")
    write(url, range(60), tmp_path / "another")
    check(Store(url), 60)
    assert verify(fetched(url, tmp_path)) == [] and strangers(url) == []


def test_s3(bucket, tmp_path):
    url = make(f"{bucket}/stores/one")
    before = contents(url)
    assert compact(url, 10_000_000) == 1
    assert contents(url) == before and strangers(url) == []
    forget(url, ["source-1", "source-3"])
    expect_gone(fetched(url, tmp_path))
    assert set(Store(url).keys()) == {key(i) for i in KEPT} and verify(url) == []
