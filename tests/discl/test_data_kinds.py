"""The paper's data sets in their own files: what is read, and what a wrong row is told."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discl.data import load_data
from discl.errors import RunFailed
from tests.discl.data_kinds import config, refused, save

# ---- ImageNet-LT ----

TRAIN = ["train/n01/n01_1.JPEG 0", "train/n01/n01 2.JPEG 0", "train/n02/n02_7.JPEG 1"]
TEST = ["val/ILSVRC2012_val_00000001.JPEG 1"]


def imagenet(folder, train=TRAIN, test=TEST):
    (folder / "ImageNet_LT_train.txt").write_text("\n".join(train) + "\n")
    (folder / "ImageNet_LT_test.txt").write_text("\n".join(test) + "\n")
    for line in [*TRAIN, *TEST]:
        save(folder / line.rsplit(maxsplit=1)[0])
    return folder


def test_imagenet_lt(tmp_path):
    table = load_data(config("imagenet-lt", imagenet(tmp_path)))
    assert table.ids == ["train/n01/n01_1.JPEG", "train/n01/n01 2.JPEG", "train/n02/n02_7.JPEG", TEST[0][:-2]]
    assert table.labels.tolist() == [0, 0, 1, 1]
    assert table.splits == ["train"] * 3 + ["test"]
    assert table.class_names == ("n01", "n02")
    assert table.paths[1] == str(tmp_path / "train/n01/n01 2.JPEG")


def test_imagenet_lt_lists_may_lie_elsewhere_and_be_augmented(tmp_path):
    imagenet(tmp_path)
    lists = tmp_path / "lists"
    lists.mkdir()
    synthetic = "out/n02/Strength90_guidance100_seed10/n02_7.JPEG 1 10 1"
    (lists / "ImageNet_LT_train.txt").write_text(f"{TRAIN[0]} 100 2\n{synthetic}\n{TRAIN[2]} 100 1\n")
    table = load_data(config("imagenet-lt", tmp_path, lists=str(lists)))
    assert table.labels.tolist() == [0, 1] and table.held_out == []


def test_a_thousand_classes_have_openais_names(tmp_path):
    lines = [f"train/n{label:08d}/{label}.JPEG {label}" for label in range(1000)]
    (tmp_path / "ImageNet_LT_train.txt").write_text("\n".join(lines))
    names = load_data(config("imagenet-lt", tmp_path), check=False).class_names
    assert names[0] == "tench" and len(set(names)) == 1000


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["train/n01/a.JPEG 1000"], r"ImageNet_LT_train\.txt, row 1: label = 1000 is out of range, 0\.\.999; correct"),
        (["train/n01/a.JPEG -1"], "row 1: label = -1 is out of range"),
        ([*TRAIN, "train/n01/n01_1.JPEG 0"], r"row 4: image 'train/n01/n01_1\.JPEG' is already in row 1; remove one"),
        ([TRAIN[0], "train/n01/x.JPEG"], "row 2: 'train/n01/x.JPEG' has no label; write"),
        ([TRAIN[0], "train/n01/x.JPEG cat"], "row 2: label = 'cat' is no whole number; correct it"),
        ([""], "lists no real image"),
    ],
)
def test_imagenet_lt_rows_that_are_wrong(tmp_path, train, message):
    refused(message, "imagenet-lt", imagenet(tmp_path, train))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (["val/1.JPEG 2"], r"ImageNet_LT_test\.txt, row 1: label = 2 is out of range, 0\.\.1; correct"),
        ([*TEST, TRAIN[0]], r"test\.txt, row 2: image .* is already in .*ImageNet_LT_train\.txt, row 1; remove one"),
    ],
)
def test_imagenet_lt_rows_that_are_wrong_beside_the_training_list(tmp_path, test, message):
    refused(message, "imagenet-lt", imagenet(tmp_path, test=test))


def test_imagenet_lt_without_a_list(tmp_path):
    refused(r"ImageNet_LT_train\.txt: no such list; put it there, or set data\.lists", "imagenet-lt", tmp_path)


def test_missing_files_are_listed_with_their_rows_up_to_the_share(tmp_path, caplog):
    imagenet(tmp_path, [*TRAIN, "train/n02/gone.JPEG 1"])
    table = load_data(config("imagenet-lt", tmp_path, max_bad_share=0.2))
    assert len(table) == 4 and len(table.quarantined) == 1
    assert "ImageNet_LT_train.txt, row 4" in table.quarantined[0][1] and "row 4" in caplog.text
    with pytest.raises(RunFailed, match=r"1 of 5 images .*ImageNet_LT_train\.txt, row 4"):
        load_data(config("imagenet-lt", tmp_path))


def test_a_byte_order_mark_is_read_over_and_a_nul_in_a_name_is_named(tmp_path):
    imagenet(tmp_path)
    file = tmp_path / "ImageNet_LT_train.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_data(config("imagenet-lt", tmp_path)).ids[0] == "train/n01/n01_1.JPEG"
    file.write_text("\n".join([*TRAIN, "train/n02/a\0.JPEG 1"]))
    table = load_data(config("imagenet-lt", tmp_path, max_bad_share=0.2))
    assert "a\\x00.JPEG': its name holds a NUL byte; correct the list (" in table.quarantined[0][1]


# ---- iNaturalist 2018 ----


def inaturalist(folder, change=lambda train: None):
    images = [{"id": 10 + n, "file_name": f"train_val2018/Aves/{n % 2}/{n}.jpg", "license": n % 3} for n in range(4)]
    notes = [{"id": n, "image_id": 10 + n, "category_id": n % 2} for n in range(4)]
    categories = [{"id": n, "name": str(n), "supercategory": "Aves"} for n in range(2)]
    train = {"images": images[:3], "annotations": notes[:3], "categories": categories}
    change(train := json.loads(json.dumps(train)))
    val = {"images": images[3:], "annotations": notes[3:], "categories": categories}
    for name, data in (("train", train), ("val", val)):
        (folder / f"{name}2018.json").write_text(json.dumps(data))
    for image in images:
        save(folder / image["file_name"])
    return folder


def test_inaturalist(tmp_path):
    inaturalist(tmp_path)
    table = load_data(config("inaturalist2018", tmp_path))
    assert table.labels.tolist() == [0, 1, 0, 1] and table.splits == ["train"] * 3 + ["test"]
    assert table.class_names == ("0", "1") and table.columns["license"] == ["0", "1", "2", "0"]
    (tmp_path / "categories.json").write_text(json.dumps([{"id": n, "name": ("Larus", "Corvus")[n]} for n in (0, 1)]))
    assert load_data(config("inaturalist2018", tmp_path)).class_names == ("Larus", "Corvus")
    kept = load_data(config("inaturalist2018", tmp_path, allow_licenses=["0"]))
    assert kept.ids == [table.ids[0], table.ids[3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t["annotations"][1].update(category_id=2),
            "annotations, row 2: category_id 2 is out of range, 0..1",
        ),
        (lambda t: t["annotations"][1].update(image_id=99), "row 2: image_id 99 is not among the images; remove"),
        (lambda t: t["annotations"][2].update(image_id=10), "row 3: image_id 10 was annotated in row 1; keep one"),
        (lambda t: t["images"][1].update(id=10), "images, row 2: image id 10 occurs twice; remove one"),
        (lambda t: t["images"][1].update(id=[1]), r"images, row 2: id = '\[1\]' is no int; correct it"),
        (
            lambda t: t["images"][1].update(file_name="train_val2018/Aves/0/0.jpg"),
            "row 2: image .* already in .* row 1",
        ),
        (lambda t: t["categories"].append({"id": 0, "name": "x"}), "categories, row 3: id 0 is already in row 1; keep"),
        (lambda t: t["images"][0].pop("file_name"), "images, row 1: no key 'file_name'; restore the file"),
        *(
            (lambda t, out=out: t["images"][1].update(file_name=out), f"images, row 2: .*{out}.* out of data.root")
            for out in ("../secret.jpg", "train_val2018/../../secret.jpg", "/etc/secret.jpg", "..")
        ),
        (lambda t: t.pop("annotations"), "holds no list 'annotations'"),
    ],
)
def test_inaturalist_rows_that_are_wrong(tmp_path, change, message):
    refused(f"train2018.json.*{message}", "inaturalist2018", inaturalist(tmp_path, change))


# ---- iWildCam ----

COLUMNS = ["split", "filename", "y", "location_remapped", "sequence_remapped", "datetime", "image_id"]
NAMES = [("0", "7", "empty", "empty"), ("1", "8", "puma yagouaroundi", "jaguarundi"),
         ("2", "9", "herpailurus yagouaroundi", "jaguarundi"), ("99999", "5", "end", "end")]  # fmt: skip
SPLITS = ("train", "val", "test", "id_val", "id_test")


def wildcam(folder, change=lambda rows: None, columns=COLUMNS):
    rows = [
        [split, f"{n}.jpg", str(n % 3), "4", "5", "2020-01-01 00:00:00.000", f"i{n}"] for n, split in enumerate(SPLITS)
    ]
    rows.append(["train", "unused.jpg", "99999", "4", "5", "", "i9"])
    change(rows)
    root = folder / "iwildcam_v2.0"
    for n in range(len(SPLITS)):
        save(root / "train" / f"{n}.jpg")
    for name, head, body in (("metadata", columns, rows), ("labels", ["y", "category_id", "name", "english"], NAMES)):
        with open(root / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([head, *body])
    return folder


def test_iwildcam(tmp_path):
    table = load_data(config("iwildcam", wildcam(tmp_path)))
    assert table.splits == list(SPLITS) and table.labels.tolist() == [0, 1, 2, 0, 1]
    assert table.class_names == (
        "empty", "jaguarundi (puma yagouaroundi)", "jaguarundi (herpailurus yagouaroundi)"
    )  # fmt: skip
    assert table.selection_split == "id_val" and table.held_out == list(SPLITS[1:])
    assert table.paths[0] == str(tmp_path / "iwildcam_v2.0" / "train" / "0.jpg")
    assert table.columns["location_remapped"] == ["4"] * 5


def test_iwildcam_with_wilds_own_names(tmp_path):
    root = wildcam(tmp_path) / "iwildcam_v2.0"
    (root / "labels.csv").unlink()
    (root / "categories.csv").write_text("y,category_id,name\n0,7,empty\n1,8,puma\n2,9,paca\n")
    assert load_data(config("iwildcam", root)).class_names == ("empty", "puma", "paca")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r[1].__setitem__(2, "3"),
            r"metadata\.csv, row 3: y = 3 is out of range, 0\.\.2; correct or remove",
        ),
        (lambda r: r[1].__setitem__(2, "cat"), r"row 3: y = 'cat' is no whole number"),
        (lambda r: r[2].__setitem__(1, "0.jpg"), r"row 4: filename '0\.jpg' is already in row 2; remove one"),
        (lambda r: r[2].__setitem__(6, "i0"), "row 4: image_id 'i0' is already in row 2; remove one"),
        (lambda r: r[2].__setitem__(0, "dev"), "row 4: split = 'dev'; expected one of train, val"),
    ],
)
def test_iwildcam_rows_that_are_wrong(tmp_path, change, message):
    refused(message, "iwildcam", wildcam(tmp_path, change))


def test_iwildcam_with_changed_columns(tmp_path):
    changed = wildcam(tmp_path, columns=["part", *COLUMNS[1:]])
    refused(r"metadata\.csv, row 1: no column 'split'; its columns are part, .*: name the column", "iwildcam", changed)


# ---- tables ----


def test_parquet_is_read_as_csv_is(tmp_path):
    columns = {"path": ["1.png", "2.png"], "label": [1, 0], "caption": ["a", None], "class_name": ["x", "y"]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    save(tmp_path / "1.png")
    save(tmp_path / "2.png")
    table = load_data(config("csv", tmp_path / "data.parquet"))
    assert table.labels.tolist() == [1, 0] and table.class_names == ("y", "x") and table.columns["caption"] == ["a", ""]
    pq.write_table(pa.table({"path": ["1.png"] * 2, "label": [1, 1]}), tmp_path / "data.parquet")
    refused(r"data\.parquet, row 2: path, label and caption .* already in row 1", "csv", tmp_path / "data.parquet")
    (tmp_path / "data.parquet").write_bytes(b"no")
    refused("cannot be read as Parquet", "csv", tmp_path / "data.parquet")
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    data = (tmp_path / "data.parquet").read_bytes()
    (tmp_path / "data.parquet").write_bytes(data[:100] + data[101:])
    refused("cannot be read as Parquet", "csv", tmp_path / "data.parquet")  # whose reason has several lines


def test_iwildcam_with_two_names_for_a_class(tmp_path):
    labels = wildcam(tmp_path) / "iwildcam_v2.0" / "labels.csv"
    labels.write_text(labels.read_text() + "1,8,puma,puma\n")
    refused(r"labels\.csv, row 6: y '1' is already in row 3; remove one", "iwildcam", tmp_path)


def test_a_class_number_that_no_data_set_has(tmp_path):
    """It would be as many classes as that."""
    root = wildcam(tmp_path, lambda rows: rows[1].__setitem__(2, "999999999")) / "iwildcam_v2.0"
    labels = (root / "labels.csv").read_text()
    (root / "labels.csv").unlink()
    refused(r"metadata\.csv, row 3: y = 999999999 is out of range, 0\.\.99998; correct", "iwildcam", root)
    (root / "labels.csv").write_text(labels + "999999999,8,puma,puma\n")
    refused(r"labels\.csv, row 6: y = 999999999 is out of range, 0\.\.99998; correct", "iwildcam", root)


def test_whole_numbers_may_come_as_floats(tmp_path):
    save(tmp_path / "1.png")
    pq.write_table(pa.table({"path": ["1.png", "1.png"], "label": [10.0, 2.0]}), tmp_path / "data.parquet")
    assert load_data(config("csv", tmp_path / "data.parquet")).labels.tolist() == [10, 2]


def test_the_same_row_twice_in_a_csv(tmp_path):
    (tmp_path / "data.csv").write_text("path,label\na.png,0\nb.png,0\na.png,0\n")
    refused(r"data\.csv, row 4: .* is already in row 2; remove one", "csv", tmp_path / "data.csv")


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        ("filepath,image_name,label,classname\n1.png,1.JPEG,1,dog\n2.png,2.JPEG,0,cat\n", [1, 0], ("cat", "dog")),
        (",label id,label name,filepath,img_name\n0,1,dog,1.png,1\n1,0,cat,2.png,2\n", [1, 0], ("cat", "dog")),
        (
            "title\tfilepath\tlabel\tstrength\tguidance\tseed\timg_id\n"
            "a dog.\t1.png\t1\t0\t100\t100\t3\ndog in the wild.\t1.png\t1\t0\t100\t100\t3\n"
            "a dog.\tmade.png\t1\t30\t70\t10\t3\n",
            [1, 1],
            ("0", "1"),
        ),
    ],
)
def test_the_tables_of_the_papers_code(tmp_path, text, labels, names):
    for name in ("1.png", "2.png", "made.png"):
        save(tmp_path / name)
    (tmp_path / "data.csv").write_text(text)
    table = load_data(config("csv", tmp_path / "data.csv"))
    assert table.labels.tolist() == labels and table.class_names == names
    assert "made.png" not in table.ids and "" not in table.columns
