"""Packed real images are the same table with the same pixels, from a folder or a URL."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import webdataset
from PIL import Image

from discl.cli import main
from discl.data import load_data
from discl.data.packed import pack
from discl.dataset import SpectrumDataset
from discl.errors import ConfigError, DataError
from discl.loader import CurriculumLoader
from discl.plan import make_plan
from discl.store import Store, verify
from tests.discl.loading import CROPS, RESAMPLED, assert_same, loader
from tests.discl.spectrum_samples import make_store


def config(kind, root, **keys):
    return SimpleNamespace(**{"kind": kind, "root": str(root), "max_bad_share": 0.5, "allow_licenses": []} | keys)


@pytest.fixture
def table(tmp_path):
    """Files of every kind in two classes and two splits, with a licence each."""
    random = np.random.default_rng(0)
    kinds = ["a.jpg", "b.png", "c.webp", "d.bmp", "e.gif", "cmyk.jpg", "turned.jpg", "clear.png", "grey.png"]
    lines = ["path,label,class_name,split,license"]
    for number in range(36):
        name, label = f"{number}-{kinds[number % len(kinds)]}", number % 2
        image = Image.fromarray(random.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((24 + number, 20))
        modes = {"cmyk": "CMYK", "clear": "RGBA", "grey": "L"}
        image = image.convert(next((mode for word, mode in modes.items() if word in name), "RGB"))
        exif = Image.Exif()
        exif[0x0112] = 6 if "turned" in name else 1
        image.save(tmp_path / name, **({"exif": exif} if name.endswith("jpg") else {}))
        split = "test" if number % 5 == 4 else "train"
        lines.append(f"{name},{label},{('many', 'a/b ü')[label]},{split},{('by', 'by-nc')[number % 3 == 0]}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return load_data(config("csv", tmp_path / "table.csv"))


def same_columns(one, other):
    assert (one.ids, one.splits, one.class_names, one.columns) == (
        other.ids,
        other.splits,
        other.class_names,
        other.columns,
    )
    assert np.array_equal(one.labels, other.labels)


def test_the_table_comes_back_and_pixels_are_the_files(table, tmp_path):
    store = pack(table, tmp_path / "packed")
    assert verify(store.path) == []
    packed = load_data(config("store", store.path))
    same_columns(packed, table)
    for split in ("train", "test"):
        files, shards = (SpectrumDataset(None, one, split=split) for one in (table, packed))
        assert files.ids.tolist() == shards.ids.tolist()
        for row in range(len(files)):
            assert np.array_equal(np.asarray(files[row]["image"]), np.asarray(shards[row]["image"]))
    allowed = load_data(config("store", store.path, allow_licenses=["by"]))
    assert set(allowed.columns["license"]) == {"by"} and 0 < len(allowed) < len(table)
    image = SpectrumDataset(None, allowed, split="train")[3]
    assert image["id"] == SpectrumDataset(None, allowed, split="train").ids[3]


def test_plain_files_go_in_byte_for_byte_and_webdataset_reads_them(table, tmp_path):
    store = pack(table, tmp_path / "packed")
    bytes_of = {row["source_id"]: store.read(row["key"]) for row in store.table.to_pylist()}
    for name, path in zip(table.ids, table.paths, strict=True):
        data = Path(path).read_bytes()
        assert (bytes_of[name] == data) == (not any(word in name for word in ("bmp", "gif", "cmyk", "clear")))
    samples = list(webdataset.WebDataset(str(store.path / "shards/000000.tar"), shardshuffle=False))
    assert len(samples) == len(table)


@pytest.mark.parametrize("remote", [False, True])
def test_training_batches_are_those_of_the_files(table, tmp_path, remote):
    pack(table, tmp_path / "packed", shard_bytes=4000)
    root = f"file://{tmp_path / 'packed'}" if remote else tmp_path / "packed"
    tail = np.flatnonzero((table.labels == 1) & (np.array(table.splits) == "train"))[:4]
    store = make_store(tmp_path / "store")
    sources = [
        loader(CurriculumLoader, SpectrumDataset(store, load_data(config(*where)), tail=tail), CROPS)
        for where in (("csv", tmp_path / "table.csv"), ("store", root))
    ]
    made = 0
    for _ in range(2):
        for one, other in zip(*sources, strict=True):
            assert_same(one, other, **RESAMPLED)
            made += int(one["is_synth"].sum())
    assert made


def test_packing_goes_on_and_takes_what_changed(table, tmp_path):
    first = pack(table.take(range(10)), tmp_path / "packed")
    assert len(first) == 10
    assert len(pack(table, tmp_path / "packed")) == len(table)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(table.paths[1])
    store = pack(table, tmp_path / "packed")
    assert len(store) == len(table) + 1
    packed = load_data(config("store", store.path))
    assert sorted(packed.ids) == sorted(table.ids)
    row = packed.ids.index(table.ids[1])
    assert Image.open(io.BytesIO(store.read(*store.keys_at(packed.packed.rows[[row]])))).size == (9, 9)


def test_the_command(tmp_path, capsys):
    for number in range(3):
        (tmp_path / "images" / "fox").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"images/fox/{number}.png")
    (tmp_path / "run.toml").write_text('[data]\nkind = "imagefolder"\nroot = "images"\n')
    for _ in range(2):
        assert main(["store", "pack", str(tmp_path / "run.toml"), str(tmp_path / "packed")]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "packed")
    shutil.rmtree(tmp_path / "images")
    packed = load_data(config("store", tmp_path / "packed"))
    assert packed.ids == ["fox/0.png", "fox/1.png", "fox/2.png"] and packed.class_names == ("fox",)


def test_what_cannot_be_done_is_named(table, tmp_path):
    with pytest.raises(DataError, match="not a store of real images; make one with `discl store pack`"):
        load_data(config("store", make_store(tmp_path / "store").path))
    packed = load_data(config("store", pack(table, tmp_path / "packed").path))
    full = SimpleNamespace(spectrum=None, data=SimpleNamespace(root="packed"))
    with pytest.raises(ConfigError, match="packed can be trained on; spectra are made from image files"):
        make_plan(full, packed, np.arange(2), {})
    (tmp_path / "0-a.jpg").unlink()
    with pytest.raises(DataError, match=r"0-a\.jpg: cannot be read"):
        pack(table, tmp_path / "again")
    assert len(Store(tmp_path / "again")) == 0
