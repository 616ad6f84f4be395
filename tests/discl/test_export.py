"""Exports are read back by the readers they are for, byte by byte."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from discl.cli import main
from discl.errors import StoreError
from discl.store import Store, StoreWriter
from discl.store.export import export
from discl.store.export_formats import Labels
from tests.discl.picture_samples import CLASSES, fill_pictures, picture
from tests.discl.store_samples import key, sample

CHOSEN = [i for i in range(20) if i % 4 != 3]
MARK = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@pytest.fixture
def store(tmp_path):
    return fill_pictures(tmp_path / "s", range(20), license=["cc0", "cc-by", None], visits=[1, 2, 3])


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_webdataset_and_tarfile_read_the_tars(store, tmp_path):
    import webdataset

    assert export(store.path, tmp_path / "out", format="wds", shard_bytes=10_000) == len(CHOSEN)
    tars = sorted(str(tar) for tar in (tmp_path / "out").glob("*.tar"))
    assert len(tars) > 1
    read = {item["__key__"]: item for item in webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")}
    members = {}
    for tar in tars:
        with tarfile.open(tar) as open_tar:
            members |= {member.name: open_tar.extractfile(member).read() for member in open_tar}
    assert read.keys() == {key(i) for i in CHOSEN}
    for i in CHOSEN:
        np.testing.assert_array_equal(read[key(i)]["jpg"], pixels(picture(i)))
        assert read[key(i)]["cls"] == i % 3
        assert read[key(i)]["json"]["source_id"] == f"source-{i % 5}"
        assert members[f"{key(i)}.jpg"] == picture(i)


def test_dali_reads_the_tars(store, tmp_path):
    from nvidia.dali import fn, pipeline_def, types

    export(store.path, tmp_path / "out", format="wds")

    @pipeline_def(batch_size=len(CHOSEN), num_threads=1, device_id=None)
    def read():
        image, label = fn.readers.webdataset(paths=[str(tmp_path / "out/data-000000.tar")], ext=["jpg;png;webp", "cls"])
        return image, label

    pipe = read()
    pipe.build()
    images, labels = pipe.run()
    assert [bytes(np.asarray(images[at])) for at in range(len(CHOSEN))] == [picture(i) for i in CHOSEN]
    assert [int(bytes(np.asarray(labels[at]))) for at in range(len(CHOSEN))] == [i % 3 for i in CHOSEN]
    assert types  # the module loads whole


@pytest.mark.parametrize("format", ["hf", "imagefolder"])
def test_hf_datasets_reads_parquet_and_image_folders(store, tmp_path, format, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    export(store.path, tmp_path / "out", format=format, shard_bytes=5_000)
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == len(CHOSEN)
    names = [key(i) for i in CHOSEN]
    for row in loaded:
        i = CHOSEN[names.index(row["key"])]
        np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), pixels(picture(i)))
        assert (row["label"], row["class_name"], row["visits"]) == (i % 3, CLASSES[i % 3], i % 3 + 1)
        assert row["license"] == ["cc0", "cc-by", None][i % 3]
    if format == "hf":
        assert loaded.features["label"].names == CLASSES
        assert len(list((tmp_path / "out/data").iterdir())) > 1


def test_torchvision_reads_the_image_folder(store, tmp_path):
    export(store.path, tmp_path / "out", format="imagefolder")
    folder = torchvision.datasets.ImageFolder(tmp_path / "out")
    assert sorted(folder.classes) == sorted(["cat", "dog house", "é_ü"])
    assert len(folder) == len(CHOSEN)
    assert torch.is_tensor(torchvision.transforms.functional.to_tensor(folder[0][0]))
    lines = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text().splitlines()]
    assert all((tmp_path / "out" / line["file_name"]).read_bytes() == store.read(line["key"]) for line in lines)


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_every_exported_image_says_that_it_is_synthetic(tmp_path, format):
    fill_pictures(tmp_path / "s", range(3), format)
    export(tmp_path / "s", tmp_path / "out", format="imagefolder")
    images = list((tmp_path / "out").glob(f"*/*.{format}"))
    assert len(images) == 3
    assert all(MARK in image.read_bytes() for image in images)


def test_the_data_card_counts_what_is_there(store, tmp_path):
    export(store.path, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\n") and "license: other" in card and "- synthetic" in card
    assert "These images are synthetic" in card and "trainedAlgorithmicMedia" in card
    cells = Counter((CLASSES[i % 3], [0, 10, 30, 50][i % 4]) for i in CHOSEN)
    for name in CLASSES:
        counts = [cells[name, level] for level in (0, 10, 30)]
        assert f"| {name} | {' | '.join(map(str, [*counts, sum(counts)]))} |" in card
    assert f"| cc0 | {sum(i % 3 == 0 for i in CHOSEN)} |" in card
    assert f"| unknown | {sum(i % 3 == 2 for i in CHOSEN)} |" in card and "None" not in card
    assert f"`{'r' * 32}`: {len(CHOSEN)} images" in card
    assert store.snapshot() in card


def test_labels_fall_back_to_names_where_ids_are_missing_or_shared():
    assert Labels([(2, "b"), (0, "a")]).names == ["a", "class 1 (no image)", "b"]
    for broken in ([(None, "b"), (0, "a")], [(0, "b"), (0, "a")]):
        labels = Labels(broken)
        assert labels.names == ["a", "b"] and labels.of({"class_name": "b"}) == 1


def of_classes(path, names, user=()):
    """Images 0..11 of these classes in turn; `user`: a column's name -> what image i has in it."""
    user = dict(user)
    for part in (range(6), range(6, 12)):  # two shards
        with StoreWriter(path, "run", shard_bytes=10**6, user_columns=list(user)) as writer:
            for i in part:
                row = sample(i)[0] | {"class_id": i % len(names), "class_name": names[i % len(names)], "status": "ok"}
                writer.append(row | {name: value(i) for name, value in user.items()}, picture(i), "jpg", None)
    store = Store(path)
    store.write_selection("default", store.keys(), {"rule": "ok"})
    return store


def loaded(folder, tmp_path, monkeypatch):
    """What `datasets` reads, by key, all of it in one split."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    splits = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(splits) == ["train"]
    return {row["key"]: row for row in splits["train"]}


@pytest.mark.parametrize(
    "names", [["train", "tank", "test tube"], ["a/b", "a:b", "a_b_0"], ["metadata.jsonl", "README.md", "b"]]
)
def test_an_image_folder_holds_every_class_whatever_its_name(tmp_path, monkeypatch, names):
    of_classes(tmp_path / "s", names)
    export(tmp_path / "s", tmp_path / "out", format="imagefolder")
    rows = loaded(tmp_path / "out", tmp_path, monkeypatch)
    assert {name: row["class_name"] for name, row in rows.items()} == {key(i): names[i % 3] for i in range(12)}
    folder = torchvision.datasets.ImageFolder(tmp_path / "out")
    found = {(rows[Path(file).stem]["class_name"], label) for file, label in folder.samples}
    assert len(folder) == 12 and sorted(label for _, label in found) == [0, 1, 2]


@pytest.mark.parametrize("format", ["hf", "imagefolder"])
def test_a_users_column_takes_nothing_of_the_readers_place(tmp_path, monkeypatch, format):
    user = {
        name: lambda i, name=name: f"{name} {i}"
        for name in ("image", "image_", "label", "file_name", "scan_file_name", "note")
    }
    of_classes(tmp_path / "s", ["a", "b"], user)
    export(tmp_path / "s", tmp_path / "out", format=format)
    rows = loaded(tmp_path / "out", tmp_path, monkeypatch)
    files = {"file_name_": "file_name 3", "scan_file_name_": "scan_file_name 3"}
    if format == "hf":
        files = {name.removesuffix("_"): value for name, value in files.items()}
    expected = {"label": 1, "image__": "image 3", "image_": "image_ 3", "label_": "label 3", "note": "note 3", **files}
    assert {name: rows[key(3)][name] for name in expected} == expected
    for i in range(12):
        np.testing.assert_array_equal(np.asarray(rows[key(i)]["image"].convert("RGB")), pixels(picture(i)))


@pytest.mark.parametrize("format", ["hf", "imagefolder"])
def test_a_column_of_other_kinds_in_other_shards_is_text(tmp_path, monkeypatch, format):
    user = {"grade": lambda i: i if i < 6 else f"{i}b", "size": lambda i: i if i < 6 else 0.5}
    of_classes(tmp_path / "s", ["a"], user)
    export(tmp_path / "s", tmp_path / "out", format=format)
    rows = loaded(tmp_path / "out", tmp_path, monkeypatch)
    assert [(rows[key(i)]["grade"], rows[key(i)]["size"]) for i in (2, 7)] == [("2", "2"), ("7b", "0.5")]


def test_absurd_class_ids_are_numbered_anew():
    assert Labels([(2**31, "b"), (0, "a")]).names == ["a", "b"]


def test_an_export_overwrites_nothing_and_failures_leave_nothing(store, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="exists already"):
        export(store.path, tmp_path / "there")
    with pytest.raises(StoreError, match="no selection 'good'"):
        export(store.path, tmp_path / "out", "good")
    tar = store.path / "shards/000000.tar"
    tar.write_bytes(tar.read_bytes().replace(picture(0), bytes(len(picture(0)))))
    with pytest.raises(StoreError, match=r"000000\.tar"):
        export(store.path, tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s", "there"]


@pytest.mark.parametrize("format", ["wds", "imagefolder", "hf"])
def test_a_killed_export_is_not_there_and_the_next_one_is_whole(store, tmp_path, format):
    script = (
        "import os, sys\nfrom discl.store.export import export\n"
        "def die(event):\n    if event['done'] == 7: os.kill(os.getpid(), 9)\n"
        "export(sys.argv[1], sys.argv[2], format=sys.argv[3], on_event=die)\n"
    )
    arguments = [str(store.path), str(tmp_path / "out"), format]
    assert subprocess.run([sys.executable, "-c", script, *arguments]).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert export(store.path, tmp_path / "out", format=format) == len(CHOSEN)
    assert sorted(os.listdir(tmp_path)) == ["out", "s"]


def test_the_command(store, tmp_path, capfd):
    argv = [
        "store",
        "export",
        str(store.path),
        str(tmp_path / "out"),
        "--selection",
        "default",
        "--format",
        "imagefolder",
    ]
    assert main(argv) == 0
    assert capfd.readouterr().out.strip() == str(tmp_path / "out")
    assert main(argv) == 2
    assert "exists already" in capfd.readouterr().err
