"""verify --repair: what is whole stays as it was, the rest is gone, and verify is silent; wherever a process dies."""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from discl.cli import main
from discl.errors import StoreError
from discl.store import Store, StoreWriter, verify
from discl.store.lock import WriterLock
from discl.store.repair import Repaired, repair
from tests.discl.store_samples import key
from tests.discl.test_rewrite import COUNT, contents, make, own


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "s"
    make(root)
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "s")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)


def expect(root, whole, gone=(), without_embedding=()):
    """Every sample is there as it was, but for those; the selection too; and generating again completes the store."""
    assert verify(root) == []
    (found, chosen), (before, selected) = contents(root), contents(whole)
    assert found.keys() == before.keys() - set(gone)
    for name, (row, image, vector) in found.items():
        assert (row, image) == before[name][:2]
        assert vector == before[name][2] or name in without_embedding
    assert chosen == [name for name in selected if name not in gone]
    with StoreWriter(root, "again", shard_bytes=20_000, user_columns=["license"]) as writer:
        for i in range(COUNT):
            if key(i) not in writer.keys:
                writer.append(own(i)[0] | {"license": "cc0" if i % 2 else None}, *own(i)[1:])
    assert verify(root) == [] and len(Store(root)) == COUNT


def rows_of(root, shard):
    return [row for row in Store(root).table.to_pylist() if row["shard"] == shard]


def keys_of(root, number):
    """All keys of a shard, those without an image too."""
    first = sum(shard.rows for shard in Store(root).shards[:number])
    return Store(root).keys()[first : first + Store(root).shards[number].rows]


def test_a_sound_store_is_left_alone(root, whole):
    snapshot = Store(root).snapshot()
    assert repair(root) == Repaired(0, 0, 0)
    assert Store(root).snapshot() == snapshot
    expect(root, whole)


def test_an_image_with_a_changed_byte_goes_alone(root, whole):
    bad = rows_of(root, 1)[2]
    flip(root / "shards/000001.tar", bad["offset"])
    size = len(keys_of(root, 1))
    assert repair(root) == Repaired(1, size - 1, 1)
    expect(root, whole, [bad["key"]])


@pytest.mark.parametrize("where", ["header", "json", "padding", "footer"])
def test_damage_beside_the_images_costs_none(root, whole, where):
    row = rows_of(root, 0)[1]
    end = row["offset"] + row["length"]
    tar = root / "shards/000000.tar"
    at = {"header": row["offset"] - 300, "json": (end + 511) // 512 * 512 + 520, "padding": end, "footer": -1}[where]
    flip(tar, at)
    assert verify(root)
    repair(root)
    expect(root, whole)


def test_a_cut_tar_loses_what_was_cut_off(root, whole):
    rows = rows_of(root, 1)
    os.truncate(root / "shards/000001.tar", rows[-2]["offset"] + 1)
    repair(root)
    expect(root, whole, [row["key"] for row in rows[-2:]])


def test_a_tar_that_is_gone(root, whole):
    (root / "shards/000001.tar").unlink()
    lost = [row["key"] for row in rows_of(root, 1)]
    repair(root)
    expect(root, whole, lost)


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_lost_index_is_made_from_the_tar(root, whole, how):
    """Rows without an image are in the index alone, and vectors are found by its rows."""
    index, names = root / "index/000001.parquet", keys_of(root, 1)
    bare = set(names) - {row["key"] for row in rows_of(root, 1)}
    runs = {name: row["created_at"] for name, (row, *_) in contents(whole)[0].items()}
    if how == "gone":
        index.unlink()
    else:
        flip(index, 100)
    repair(root)
    assert verify(root) == []
    found, before = contents(root)[0], contents(whole)[0]
    assert found.keys() == before.keys() - bare
    for name in set(names) - bare:
        (row, image, _), (old, old_image, _) = found[name], before[name]
        assert image == old_image
        assert {**row, "created_at": runs[name]} == old


def test_an_index_and_a_tar_of_one_shard(root, whole):
    names = keys_of(root, 1)
    (root / "index/000001.parquet").unlink()
    flip(root / "shards/000001.tar", 600)
    assert repair(root) == Repaired(1, 0, len(names))
    expect(root, whole, names)


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_lost_embeddings_cost_no_image(root, whole, how):
    vectors = root / "embeddings/000001.npy"
    if how == "gone":
        vectors.unlink()
    else:
        flip(vectors, -1)
    names = keys_of(root, 1)
    assert repair(root) == Repaired(1, len(names), 0)
    expect(root, whole, without_embedding=names)


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100])
def test_a_damaged_manifest_entry_is_made_anew(root, whole, content):
    (root / "manifest/000001.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged manifest .*run discl store verify --repair"):
        Store(root)
    repair(root)
    found, before = contents(root)[0], contents(whole)[0]
    assert {name: part[1:] for name, part in found.items()} == {name: part[1:] for name, part in before.items()}
    expect(root, whole)


def test_an_entry_without_a_tar(root, whole):
    names = keys_of(root, 1)
    (root / "manifest/000001.json").write_bytes(b"")
    (root / "shards/000001.tar").unlink()
    repair(root)
    expect(root, whole, names)


def test_equal_keys_stay_once(root, whole):
    """As after a copy of a shard under another number."""
    for folder, suffix in (("shards", "tar"), ("index", "parquet"), ("embeddings", "npy")):
        shutil.copy(root / f"{folder}/000000.{suffix}", root / f"{folder}/000099.{suffix}")
    (root / "manifest/000099.json").write_bytes(b"lost")
    repair(root)
    expect(root, whole)


def test_what_a_killed_writer_left_is_kept(root, whole):
    number = len(Store(root).shards)
    extra = {f"{i:032x}" for i in range(3)}
    script = (
        "import os\nfrom discl.store import StoreWriter\n"
        f"writer = StoreWriter({str(root)!r}, 'x', shard_bytes=1 << 30, user_columns=['license']).__enter__()\n"
        "for i in range(3): writer.append({'key': f'{i:032x}', 'source_id': 's', 'class_id': 0, 'class_name': 'cat', "
        "'level': 0, 'status': 'ok'}, b'image', 'png', None)\n"
        "writer.flush(); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    flip(root / "shards/000000.tar", rows_of(root, 0)[0]["offset"])
    repair(root)
    assert verify(root) == [] and extra < set(Store(root).keys())
    assert len(Store(root)) == COUNT - 1 + 3 and number


def test_another_writer_is_respected(root):
    flip(root / "shards/000000.tar", 0)
    lock = WriterLock(root, "other")
    try:
        with pytest.raises(StoreError, match="other"):
            repair(root)
    finally:
        lock.release()


@pytest.mark.parametrize("seed", range(3))
def test_kills(root, whole, seed):
    """A process that dies before any of its renames, links and removals is followed by one that finishes."""
    rng = random.Random(seed)
    bad = [rows_of(root, shard)[0] for shard in (0, 1)]
    for row in bad:
        flip(root / f"shards/{row['shard']:06d}.tar", row["offset"])
    script = (
        "import os, sys\nfrom discl.store.repair import repair\nleft = [int(sys.argv[2])]\n"
        "def dying(call):\n    def wrapped(*a, **k):\n        left[0] -= 1\n"
        "        if not left[0]: os.kill(os.getpid(), 9)\n        return call(*a, **k)\n    return wrapped\n"
        "for name in ('rename', 'replace', 'link', 'unlink'): setattr(os, name, dying(getattr(os, name)))\n"
        "repair(sys.argv[1])\n"
    )
    for _ in range(2):
        command = [sys.executable, "-c", script, str(root), str(rng.randrange(1, 25))]
        assert subprocess.run(command).returncode in (0, -signal.SIGKILL)
    repair(root)
    expect(root, whole, [row["key"] for row in bad])


def test_the_command(root, capfd):
    assert main(["store", "verify", "--repair", str(root)]) == 0
    assert capfd.readouterr() == ("", "")
    flip(root / "shards/000000.tar", rows_of(root, 0)[0]["offset"])
    assert main(["store", "verify", str(root)]) == 1
    capfd.readouterr()
    size = len(keys_of(root, 0))
    assert main(["store", "verify", "--repair", str(root)]) == 0
    told = capfd.readouterr()
    assert told.out == ""
    assert f"1 damaged shards replaced; {size - 1} samples kept, 1 gone: `discl generate` makes them again" in told.err
    assert main(["store", "verify", "--repair", str(root / "nothing")]) == 2
    assert "is not a discl store" in capfd.readouterr().err
