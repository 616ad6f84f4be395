"""Stores behind URLs are written whole: through faults, kills and second writers, and on S3 as moto plays it."""

import json
import random
import uuid
from pathlib import Path

import fsspec
import pytest

from discl.cli import main
from discl.errors import StoreError
from discl.quarantine import Quarantine
from discl.store import Store, remote_lease, verify
from discl.store.home import Home
from discl.store.merge import merge
from tests.discl.project import contents, fake, make_project
from tests.discl.remote_stores import Flaky, fetched, write
from tests.discl.store_samples import check

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_faults_lose_nothing(tmp_path, seed):
    url = f"flaky://{uuid.uuid4().hex}/store"
    Flaky.chance = random.Random(seed)
    write(url, range(40), tmp_path / "one")
    write(url, range(60), tmp_path / "one")
    Flaky.chance = None
    check(Store(url, cache=tmp_path / "read"), 60)
    assert verify(fetched(url, tmp_path)) == []
    assert not list((tmp_path / "one" / "shards").glob("*.tar")), "what was sent takes no room"


def test_another_machine_goes_on(tmp_path):
    url = f"flaky://{uuid.uuid4().hex}/store"
    write(url, range(30), tmp_path / "one")
    write(url, range(50), tmp_path / "another")
    check(Store(url, cache=tmp_path / "read"), 50)
    assert verify(fetched(url, tmp_path)) == []


def test_what_another_machine_has_noted_stays(tmp_path):
    """Bad images that B names are not lost when A, whose copy is older, goes on."""
    url = f"memory://{uuid.uuid4().hex}/store"
    for folder, path in (("a", "1.jpg"), ("b", "2.jpg"), ("a", "3.jpg")):
        note = lambda folder=folder, path=path: Quarantine(tmp_path / folder, 9, 1.0).record([(path, "bad")])  # noqa: E731
        write(url, range(5), tmp_path / folder, at_last=note)
    noted = (Store(url, cache=tmp_path / "read").file("quarantine.jsonl") or b"").decode().splitlines()
    assert [json.loads(line)["path"] for line in noted] == ["1.jpg", "2.jpg", "3.jpg"]


def test_a_store_that_cannot_be_reached_for_long_is_an_error_and_goes_on_later(tmp_path):
    url = f"flaky://{uuid.uuid4().hex}/store"
    with pytest.raises(StoreError, match=r"what was made is kept in .*one"):
        write(url, range(20), tmp_path / "one", at_last=lambda: setattr(Flaky, "dead", True))
    Flaky.dead = False
    write(url, range(30), tmp_path / "one")
    check(Store(url, cache=tmp_path / "read"), 30)


def test_a_second_writer_is_refused_and_a_dead_ones_lease_taken_over(tmp_path):
    url = f"flaky://{uuid.uuid4().hex}/store"
    with Home(url, tmp_path / "one") as first:
        first._lease._heartbeat_s = 0.01
        files, root = fsspec.core.url_to_fs(url)
        alive = remote_lease.RemoteLease(files, root, url, heartbeat_s=0.02, stale_s=5)
        files.rm_file(f"{root}/.writer.lease")
        with alive, pytest.raises(StoreError, match="is being written by process"):
            remote_lease.RemoteLease(files, root, url, stale_s=5).__enter__()
    files.pipe_file(f"{root}/.writer.lease", b'{"host": "gone", "pid": 1}')
    write(url, range(5), tmp_path / "two")
    check(Store(url, cache=tmp_path / "read"), 5)
    assert not files.exists(f"{root}/.writer.lease")


def test_generating_to_a_url(tmp_path, tiny_models, fake_weights):
    file = make_project(tmp_path, tiny_models)
    url = f"memory://{uuid.uuid4().hex}/store"
    whole = fake(file)
    there = fake(file, f"store.path={url}", "store.shard_mb=0.004")
    assert contents(there) == contents(whole) and len(there.shards) > 2
    assert there.selection("default") == whole.selection("default")
    again = fake(file, f"store.path={url}")
    assert again.snapshot() == there.snapshot()
    files, root = fsspec.core.url_to_fs(url)
    assert len(files.ls(f"{root}/runs")) == 1  # the second run had nothing to make


def parts(place: str, tmp_path: Path) -> list[str]:
    """Three stores at `place` with 45 samples, some of them in two."""
    for name, numbers in {"a": range(20), "b": range(10, 30), "c": range(30, 45)}.items():
        write(f"{place}/{name}", numbers, tmp_path / f"writes-{name}")
    return [f"{place}/{name}" for name in "abc"]


def test_merging_urls(tmp_path, capsys):
    urls, local = parts(f"memory://{uuid.uuid4().hex}", tmp_path), tmp_path / "local"
    for into in (f"memory://{uuid.uuid4().hex}/all", str(local)):
        assert main(["store", "merge", *urls[:2], "--into", into, "--shard-mb", "0.01"]) == 0
        assert main(["store", "merge", *urls, "--into", into, "--shard-mb", "0.01"]) == 0
        check(Store(into, cache=tmp_path / "read"), 45)
        assert main(["store", "verify", into]) == 0
    back = f"memory://{uuid.uuid4().hex}/back"
    merge([local], back, 10**6)
    assert len(Store(back).shards) == 1 and contents(Store(back)) == contents(Store(local))
    with pytest.raises(StoreError, match="is one of the stores to merge"):
        merge(urls, f"{urls[1]}/", 10**6)


def test_a_torn_remote_store_is_found(tmp_path, capsys):
    url = f"memory://{uuid.uuid4().hex}/store"
    write(url, range(12), tmp_path / "writes")
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/shards/000000.tar", b"torn")
    assert main(["store", "verify", url]) == 1
    assert "shards/000000.tar" in capsys.readouterr().out


def test_a_remote_store_is_repaired_elsewhere_and_the_error_says_how(tmp_path, capfd):
    url = f"memory://{uuid.uuid4().hex}/store"
    write(url, range(5), tmp_path / "writes")
    assert main(["store", "verify", "--repair", url]) == 2
    assert "copy its files" in (said := capfd.readouterr().err) and "discl store merge FOLDER --into URL" in said
    assert main(["score", url]) == 2
    assert f"discl store merge {url} --into FOLDER" in capfd.readouterr().err


def test_importing_to_a_url(tmp_path, tiny_models):
    url = f"memory://{uuid.uuid4().hex}/store"
    make_project(tmp_path, tiny_models)
    command = ["store", "import", "--shard-mb", "0.01"]
    for place in (str(tmp_path / "here"), url, url):
        assert main([*command, place, str(tmp_path / "data")]) == 0
    here, there = Store(tmp_path / "here"), Store(url)
    assert contents(there) == contents(here) and len(there.shards) > 1
    assert there.selection("default") == here.selection("default") and verify(url) == []


def test_a_plan_knows_what_a_store_at_a_url_has(tmp_path, tiny_models, fake_weights, capfd):
    file, url = make_project(tmp_path, tiny_models), f"memory://{uuid.uuid4().hex}/store"
    for there in (0, 20):
        if there:
            fake(file, f"store.path={url}")
        assert main(["plan", str(file), "--set", f"store.path={url}", "--against", url]) == 0
        said = capfd.readouterr().out
        assert f"of which {there} are in the store" in said and f"{20 - there} to make" in said
    assert "this store's runs" in said and "actual" in said


def test_a_run_that_writes_to_a_url_is_watched_where_it_writes(tmp_path, tiny_models, fake_weights, capfd):
    url = f"memory://{uuid.uuid4().hex}/store"
    store = fake(make_project(tmp_path, tiny_models), f"store.path={url}")
    assert main(["watch", url]) == 0
    assert f"{len(store)} sealed" in capfd.readouterr().out
    elsewhere = f"memory://{uuid.uuid4().hex}/store"
    write(elsewhere, range(5), tmp_path / "writes")
    assert main(["watch", elsewhere]) == 2
    assert "watch it on the machine that writes it" in capfd.readouterr().err


def test_s3(tmp_path, bucket):
    url = f"{bucket}/stores/one"
    write(url, range(30), tmp_path / "one")
    write(url, range(45), tmp_path / "another")
    check(Store(url, cache=tmp_path / "read"), 45)
    assert verify(fetched(url, tmp_path)) == []
    files, root = fsspec.core.url_to_fs(url)
    with pytest.raises(FileExistsError):
        files.pipe_file(f"{root}/manifest/000000.json", b"another", mode="create")
    everything = merge(parts(f"{bucket}/parts", tmp_path), f"{bucket}/merged", 10_000)
    check(everything, 45)
    assert verify(f"{bucket}/merged") == []
    with pytest.raises(StoreError, match="s3://nowhere/store"), Home("s3://nowhere/store", tmp_path / "nowhere"):
        pass
