"""import: other people's trees and tars become stores with the same bytes; names that lead elsewhere are refused."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from discl.cli import main
from discl.data import load_data
from discl.dataset import SpectrumDataset
from discl.errors import StoreError
from discl.run_record import earlier_runs
from discl.store import Store, verify
from discl.store.export import export
from discl.store.import_ import import_
from tests.discl.data_kinds import config, save
from tests.discl.picture_samples import CLASSES, fill_pictures, picture
from tests.discl.store_samples import key


def put(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def images(store):
    return sorted(store.read(name) for name in store.selection("default"))


def test_an_image_folder(tmp_path, caplog):
    for i in range(6):
        put(tmp_path / f"tree/{['dog', 'cat'][i % 2]}/{i}.JPEG", picture(i))
    put(tmp_path / "tree/cat/bad.jpg", b"no image")
    assert main(["store", "import", str(tmp_path / "s"), str(tmp_path / "tree")]) == 0
    store = Store(tmp_path / "s")
    assert images(store) == sorted(picture(i) for i in range(6))
    rows = store.table.to_pylist()
    assert {row["source_id"]: row["class_name"] for row in rows}["cat/1.JPEG"] == "cat"
    assert all(row["text_score"] is None and (row["width"], row["height"]) == (24, 16) for row in rows)
    assert earlier_runs(tmp_path / "s") == [] and not caplog.records, "no run made it, and none is missed"
    assert "bad.jpg" in (tmp_path / "s/quarantine.jsonl").read_text()
    assert len(import_(tmp_path / "tree", tmp_path / "s", "imagefolder", 10**6)) == 6, "again: nothing new"
    assert verify(tmp_path / "s") == []


def test_the_reference_codes_tree(tmp_path):
    put(tmp_path / "out/Panthera_onca/Strength90_guidance100_seed3/a.jpg", picture(1))
    put(tmp_path / "out/Panthera_onca/Strength90_guidance100_seed3/clip_emb.pkl", b"never loaded")
    put(tmp_path / "out/Zebra/Strength50_guidance75_seed4/n01_1.JPEG", picture(2))
    store = import_(tmp_path / "out", tmp_path / "s", "reference", 10**6)
    found = [(row["class_name"], row["level"], row["seed"], row["source_id"]) for row in store.table.to_pylist()]
    assert found == [("Panthera onca", 10, 3, "a.jpg"), ("Zebra", 50, 4, "n01_1.JPEG")]
    assert images(store) == sorted([picture(1), picture(2)])


def test_levels_that_the_reference_code_cut_short_are_read_as_they_were_meant(tmp_path):
    """Its int(100 * (1 - level)) names the ten levels' folders; a list may repeat what the folder says."""
    for level in range(0, 100, 10):
        cut = int(100 * (1 - level / 100))
        put(tmp_path / f"out/Zebra/Strength{cut}_guidance100_seed3/{level}.jpg", picture(level))
    assert (tmp_path / "out/Zebra/Strength9_guidance100_seed3").is_dir()
    store = import_(tmp_path / "out", tmp_path / "s", "reference", 10**6)
    assert {row["source_id"]: row["level"] for row in store.table.to_pylist()} == {
        f"{level}.jpg": level for level in range(0, 100, 10)
    }
    put(tmp_path / "elsewhere/z.jpg", picture(100))
    lines = ["out/Zebra/Strength9_guidance100_seed3/90.jpg 0 91 3", "elsewhere/z.jpg 0 91 3"]
    (tmp_path / "aug.txt").write_text("\n".join(lines))
    store = import_(tmp_path / "aug.txt", tmp_path / "s2", "reference-list", 10**6)
    assert sorted(row["level"] for row in store.table.to_pylist()) == [90, 91]


def test_the_reference_codes_notebooks_tree(tmp_path):
    """GeneratedImg/ImgGuid<level>_seed<hash>/ knows no class; a folder of the user's around such leaves gives one."""
    put(tmp_path / "out/GeneratedImg/ImgGuid30_seed4294967295/a.jpg", picture(1))
    put(tmp_path / "out/red_fox/ImgGuid0_seed-7/b.png", picture(2))
    put(tmp_path / "out/red_fox/ImgGuid100_seed0/real.jpg", picture(3))
    put(tmp_path / "out/red_fox/ImgGuid30_seed9223372036854775808/c.png", picture(4))  # no seed of 64 bits
    store = import_(tmp_path / "out", tmp_path / "s", "reference", 10**6)
    found = {(row["class_name"], row["level"], row["seed"], row["source_id"]) for row in store.table.to_pylist()}
    assert found == {(None, 30, 4294967295, "a.jpg"), ("red fox", 0, -7, "b.png")}
    alone = import_(tmp_path / "out/GeneratedImg", tmp_path / "s2", "reference", 10**6)
    assert [(row["level"], row["seed"]) for row in alone.table.to_pylist()] == [(30, 4294967295)]


def labels_on(table, source, kind, store):
    """What a training on `table` takes the images imported from `source` for."""
    made = SpectrumDataset(import_(source, store, kind, 10**6), table)
    return {made.ids[row]: int(made.labels[row]) for row in np.flatnonzero(made.is_synth)}


def csv_table(folder, header, *rows):
    for row in rows:
        save(folder / row.split(",")[0])
    (folder / "data.csv").write_text("\n".join([header, *rows]))
    return load_data(config("csv", folder / "data.csv"))


def test_what_the_reference_code_made_is_trained_on_by_its_classes(tmp_path):
    """Its folders spell blanks and strokes in their own way; its training table gives classes numbers alone."""
    names = ("black_bear", "zebra", "ant/bee", "aorb fish")
    table = csv_table(tmp_path, "path,label,class_name", *(f"{n}.png,{n},{name}" for n, name in enumerate(names)))
    for number, folder in enumerate(("black_bear", "zebra", "antorbee", "aorb_fish")):
        put(tmp_path / f"out/{folder}/Strength90_guidance100_seed3/{number}.jpg", picture(number))
    store = import_(tmp_path / "out", tmp_path / "s", "reference", 10**6)
    source = {row["key"]: int(row["source_id"][0]) for row in store.table.to_pylist()}
    assert labels_on(table, tmp_path / "out", "reference", tmp_path / "s") == source

    put(tmp_path / "GeneratedImg/ImgGuid30_seed7/1.jpg", picture(1))
    with pytest.raises(StoreError, match=r"images of no class, .* put the leaves below a folder per class, .* import"):
        labels_on(table, tmp_path / "GeneratedImg", "reference", tmp_path / "of-no-class")
    (tmp_path / "zebra").mkdir()
    (tmp_path / "GeneratedImg/ImgGuid30_seed7").rename(tmp_path / "zebra/ImgGuid30_seed7")
    (tmp_path / "zebra").rename(tmp_path / "GeneratedImg/zebra")
    of_zebras = labels_on(table, tmp_path / "GeneratedImg", "reference", tmp_path / "of-zebras")
    assert list(of_zebras.values()) == [1], "as it says"

    numbered = csv_table(tmp_path, "path,label", *(f"{n}.png,{n}" for n in range(4)))
    with pytest.raises(StoreError, match="the data has no class 'antorbee'"):
        labels_on(numbered, tmp_path / "out", "reference", tmp_path / "s")
    made = "out/zebra/Strength90_guidance100_seed3/1.jpg"
    (tmp_path / "aug.txt").write_text(f"real.jpg 1 100 3\n{made} 1 10 3\n")
    assert list(labels_on(numbered, tmp_path / "aug.txt", "reference-list", tmp_path / "s2").values()) == [1]


def test_the_reference_codes_lists(tmp_path):
    """Only the synthetic rows; the training table has two rows per image, one for each caption."""
    leaf = "out/Zebra/Strength50_guidance75_seed4"
    put(tmp_path / leaf / "n01_1.JPEG", picture(2))
    aug = tmp_path / "ImageNet_LT_train_aug.txt"
    aug.write_text(f"train/n01/n01_1.JPEG 7 100 3\ntrain/n01/a real one.JPEG 7\n{leaf}/n01_1.JPEG 7 50 3\n")
    head, made = "title\tfilepath\tlabel\tstrength\tguidance\tseed\timg_id", f"{leaf}/n01_1.JPEG\t7\t50\t50\t4\t1"
    real = "a zebra.\treal.jpg\t7\t0\t100\t100\t1"
    (tmp_path / "train.csv").write_text("\n".join([head, real, f"a zebra.\t{made}", f"zebra in the wild.\t{made}"]))
    for number, (source, kind) in enumerate([(aug, "reference-list"), (tmp_path / "train.csv", "reference-table")]):
        store = import_(source, tmp_path / f"s{number}", kind, 10**6)
        (row,) = store.table.to_pylist()
        assert (row["class_id"], row["class_name"], row["level"], row["seed"]) == (7, "Zebra", 50, 4)
        assert images(store) == [picture(2)]
    aug.write_text(f"{leaf}/gone.JPEG 7 50 3\n")
    with pytest.raises(StoreError, match=r"train_aug\.txt, row 1: .*gone\.JPEG cannot be read .*remove the row"):
        import_(aug, tmp_path / "s2", "reference-list", 10**6)


def test_an_exported_selection_comes_back(tmp_path):
    fill_pictures(tmp_path / "s", range(12))
    export(tmp_path / "s", tmp_path / "tars", format="wds")
    store = import_(tmp_path / "tars", tmp_path / "back", "wds", 10**6)
    assert images(store) == images(Store(tmp_path / "s"))
    rows = {row["source_id"]: row for row in store.table.to_pylist()}
    assert rows[key(1)]["class_name"] == CLASSES[1] and rows[key(1)]["level"] == 10 and rows[key(1)]["class_id"] == 1


@pytest.mark.parametrize("name", ["/etc/passwd.jpg", "../up.jpg", "a/../../b.jpg", "a\\b.jpg"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(StoreError, match="leads out of the archive"):
        import_(tmp_path / "x.tar", tmp_path / "s", "wds", 10**6)


def test_files_that_cannot_be_read_are_quarantined_and_the_rest_is_imported(tmp_path):
    put(tmp_path / "tree/cat/a.png", picture(1, "png"))
    (tmp_path / "tree/cat/gone.png").symlink_to(tmp_path / "nowhere")
    put(tmp_path / os.fsdecode(b"tree/cat/\xff.png"), picture(2, "png"))
    assert main(["store", "import", str(tmp_path / "s"), str(tmp_path / "tree")]) == 0
    assert images(Store(tmp_path / "s")) == [picture(1, "png")]
    lines = (tmp_path / "s/quarantine.jsonl").read_text()
    assert "gone.png" in lines and "No such file" in lines and "its name is not UTF-8" in lines


def archive(file, **members):
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("json", b'{"level": 100000}', r"level 100000 is not in 0\.\.100"),
        ("json", b'{"level": -1}', "level -1 is not in"),
        ("json", b'{"seed": 1%s}' % (b"0" * 20), "seed 10+ is not in"),
        ("json", b"[" * 100_000, "recursion"),
        ("json", b'{"class_name": "\\ud800"}', "surrogates not allowed"),
        ("cls", b"9" * 30, "class_id 9+ is not in"),
    ],
)
def test_what_an_index_cannot_hold_is_named_with_its_sample(tmp_path, kind, data, reason):
    archive(tmp_path / "x.tar", **{"a_jpg": picture(1), f"a_{kind}": data})
    with pytest.raises(StoreError, match=rf"x\.tar: a\.{kind} cannot be understood: .*{reason}"):
        import_(tmp_path / "x.tar", tmp_path / "s", "wds", 10**6)


def test_a_sample_without_an_image_is_quarantined(tmp_path):
    archive(tmp_path / "x.tar", a_jpg=picture(1), a_json=b'{"level": true}', b_input_jpg=picture(2), c_txt=b"alone")
    store = import_(tmp_path / "x.tar", tmp_path / "s", "wds", 10**6)
    assert images(store) == [picture(1)] and store.table["level"].to_pylist() == [None]
    lines = (tmp_path / "s/quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["b", "c"]


def test_what_cannot_be_imported_is_said(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(StoreError, match="is no tar"):
        import_(tmp_path / "x.tar", tmp_path / "s", "wds", 10**6)
    with pytest.raises(StoreError, match="nothing to import"):
        import_(tmp_path / "absent", tmp_path / "s", "wds", 10**6)


def test_a_killed_import_goes_on(tmp_path):
    for i in range(12):
        put(tmp_path / f"tree/cat/{i}.png", picture(i, "png"))
    script = (
        "import os, sys\nfrom discl.store.import_ import import_\n"
        "def die(event):\n    if event['done'] == 7: os.kill(os.getpid(), 9)\n"
        "import_(sys.argv[1], sys.argv[2], 'imagefolder', 2000, die)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "tree"), str(tmp_path / "s")])
    assert done.returncode == -signal.SIGKILL
    store = import_(tmp_path / "tree", tmp_path / "s", "imagefolder", 2000)
    assert images(store) == sorted(picture(i, "png") for i in range(12))
    assert verify(tmp_path / "s") == []
