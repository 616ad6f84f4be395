"""Every kind of data becomes the same table; bad images are named, never fatal below the limit."""

import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder

from discl.data import load_data
from discl.data.images import check_image, decode_image, open_image
from discl.errors import ConfigError, DataError, RunFailed


def config(kind, root, **keys):
    return SimpleNamespace(**{"kind": kind, "root": str(root), "max_bad_share": 0.5, "allow_licenses": []} | keys)


def save(path, color=(255, 0, 0), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def huge_png(path, width=100_000, height=100_000):
    """A few bytes that announce ten gigapixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"IEND"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0) + end + struct.pack(">I", zlib.crc32(end))
    )  # fmt: skip
    return path


def test_digits_have_the_promised_splits(tmp_path):
    table = load_data(config("digits-lt", tmp_path))
    assert table.class_names[:3] == ("zero", "one", "two")
    assert table.train_counts.tolist() == [50, 35, 24, 17, 12, 8, 6, 4, 3, 2]
    assert np.bincount(table.labels[table.rows("test")]).tolist() == [40] * 10
    assert np.bincount(table.labels[table.rows("val")]).tolist() == [20] * 10


def test_digits_are_scikit_learns_pixels_and_no_image_is_in_two_splits(tmp_path):
    table = load_data(config("digits-lt", tmp_path))
    digits = load_digits()
    rows = [int(path[-8:-4]) for path in table.paths]
    assert len(set(rows)) == len(table)
    assert (digits.target[rows] == table.labels).all()
    for row, path in list(zip(rows, table.paths, strict=True))[::37]:
        pixels = np.asarray(open_image(path))[:, :, 0]
        assert np.array_equal(np.round(digits.images[row] * 255 / 16), pixels)


def test_digits_are_written_once_and_the_same_again(tmp_path):
    first = load_data(config("digits-lt", tmp_path))
    times = [p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")]
    second = load_data(config("digits-lt", tmp_path))
    assert first.ids == second.ids
    assert times == [p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")]


def test_digits_without_a_root_are_written_below_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = load_data(config("digits-lt", ""))
    assert len(table) == 761
    assert all(path.startswith(str(tmp_path / "discl" / "digits-lt-0")) for path in table.paths)


def test_digits_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written below"):
        load_data(config("digits-lt", tmp_path / "file"))


def test_imagefolder_sorts_classes_and_files(tmp_path):
    for name in ("zebra crossing/b.png", "zebra crossing/a.JPG", "été/1.png", ".hidden/x.png"):
        save(tmp_path / name)
    (tmp_path / "été" / "notes.txt").write_text("not an image")
    table = load_data(config("imagefolder", tmp_path))
    assert table.class_names == ("zebra crossing", "été")
    assert table.ids == ["zebra crossing/a.JPG", "zebra crossing/b.png", "été/1.png"]
    assert table.labels.tolist() == [0, 0, 1]
    assert set(table.splits) == {"train"}


def test_imagefolder_with_split_folders(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "val/a/2.png", "test/b/3.png"):
        save(tmp_path / name)
    table = load_data(config("imagefolder", tmp_path))
    assert table.splits == ["train", "train", "val", "test"]
    assert table.rows("test").tolist() == [3]
    assert table.train_counts.tolist() == [1, 1]


def test_a_class_called_train_is_a_class(tmp_path):
    save(tmp_path / "train" / "1.png")
    save(tmp_path / "bus" / "1.png")
    assert load_data(config("imagefolder", tmp_path)).class_names == ("bus", "train")


def test_imagefolder_names_the_empty_class(tmp_path):
    save(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog: the class folder holds no image"):
        load_data(config("imagefolder", tmp_path))


def test_imagefolder_names_the_class_that_only_the_test_split_has(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png")
    save(tmp_path / "test" / "dog" / "1.png")
    with pytest.raises(DataError, match="dog: a class of the test split"):
        load_data(config("imagefolder", tmp_path))


def test_imagefolder_follows_links(tmp_path):
    save(tmp_path / "elsewhere" / "1.png", color=(1, 2, 3))
    (tmp_path / "root" / "cat").mkdir(parents=True)
    (tmp_path / "root" / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    table = load_data(config("imagefolder", tmp_path / "root"))
    assert open_image(table.paths[0]).getpixel((0, 0)) == (1, 2, 3)


def test_imagefolder_takes_deeper_folders_for_their_class(tmp_path):
    """In torchvision's order of classes, with its images; what is hidden stays out, and links may go round."""
    for name in ("cat/b.png", "cat/2021/05/1.png", "cat/2021/a.JPG", "cat/.thumbs/b.png", "dog/old.png/2.png"):
        save(tmp_path / name)
    (tmp_path / "cat" / "2021" / "again").symlink_to(tmp_path / "cat")
    (tmp_path / "dog" / "borrowed").symlink_to(tmp_path / "cat" / "2021" / "05")
    table = load_data(config("imagefolder", tmp_path))
    assert table.ids == ["cat/2021/05/1.png", "cat/2021/a.JPG", "cat/b.png", "dog/borrowed/1.png", "dog/old.png/2.png"]
    assert table.labels.tolist() == [0, 0, 0, 1, 1]
    assert all(open_image(path).size == (6, 4) for path in table.paths)
    (tmp_path / "cat" / "2021" / "again").unlink()
    shutil.rmtree(tmp_path / "cat" / ".thumbs")
    theirs = ImageFolder(tmp_path)
    assert sorted(theirs.samples) == sorted(zip(table.paths, table.labels.tolist(), strict=True))


@pytest.mark.parametrize("name", ["train", "Validation", "test"])
def test_imagefolder_does_not_take_a_split_for_a_class(tmp_path, name):
    for place in (name, "other"):
        save(tmp_path / place / "cat" / "1.png")
    with pytest.raises(DataError, match=f"{name}: is it a split or a class\\?"):
        load_data(config("imagefolder", tmp_path))


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_data(config("imagefolder", tmp_path / "nowhere"))


def test_csv_passes_columns_through(tmp_path):
    save(tmp_path / "images" / "1.png")
    save(tmp_path / "2.png")
    text = "path,label,class_name,split,location\nimages/1.png,1,a/b ü,train,x\n2.png,0,plain,val,y\n"
    (tmp_path / "data.csv").write_text("\ufeff" + text, encoding="utf-8")
    table = load_data(config("csv", tmp_path / "data.csv"))
    assert table.class_names == ("plain", "a/b ü")
    assert table.labels.tolist() == [1, 0]
    assert table.columns == {"location": ["x", "y"]}
    assert table.splits == ["train", "val"]
    assert open_image(table.paths[0]).size == (6, 4)


def test_csv_labels_that_share_a_name_are_told_apart(tmp_path):
    save(tmp_path / "1.png")
    (tmp_path / "data.csv").write_text("path,label,class_name\n1.png,0,crane\n1.png,1,crane\n1.png,2,gull\n")
    assert load_data(config("csv", tmp_path / "data.csv")).class_names == ("crane (0)", "crane (1)", "gull")


def test_csv_with_text_labels_and_a_repeated_path(tmp_path):
    save(tmp_path / "1.png")
    (tmp_path / "data.csv").write_text("path,label,caption\n1.png,wolf,one\n1.png,bear,two\n")
    table = load_data(config("csv", tmp_path / "data.csv"))
    assert table.class_names == ("bear", "wolf")
    assert table.ids == ["1.png", "1.png#2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n", "no column 'path'; its columns are file, label"),
        ("path,label\n", "no rows"),
        ("path,label\na.png\n", "row 2: 1 fields, the header has 2; complete the row"),
        ("path,label\n\na.png,0\n\na.png\n", "row 5: 1 fields"),
        ("path,label,label\na.png,0,1\n", "row 1: two columns 'label'; rename or remove one"),
        ("path,label\na.png,0\nb.png,\n", "row 3: no label; write the image's class"),
        ("path,label,split\na.png,0,dev\n", "row 2: split = 'dev'"),
        ("path,label,class_name\na.png,0,x\nb.png,0,y\n", "two class names, 'x' and 'y'"),
        ("path,label\na.png,0\nb.png,-1\n", r"row 3: label = -1; .* 0..99999: number the classes from 0"),
        ("path,label\na.png,99999999999\n", "row 2: label = 99999999999"),
        ("path,label\na.png,100000\n", "row 2: label = 100000"),
        (f"path,label\na.png,{'9' * 5000}\n", "row 2: label = 9999"),
        (f"path,label\na.png,{'x' * 200_000}\n", "not a table of comma-separated values"),
    ],
)
def test_csv_errors_name_the_place(tmp_path, text, message):
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_data(config("csv", tmp_path / "data.csv"))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c"])
def test_csv_rows_end_at_line_ends_only(tmp_path, mark):
    save(tmp_path / "1.png")
    text = f'path,label,caption\r\n1.png,00001,one{mark}two\r\n1.png,0,"a\nb"\r\n'
    (tmp_path / "data.csv").write_bytes(text.encode())
    table = load_data(config("csv", tmp_path / "data.csv"))
    assert table.columns["caption"] == [f"one{mark}two", "a\nb"]
    assert table.labels.tolist() == [1, 0]


def test_classes_without_a_training_image_are_one_warning(tmp_path, caplog):
    save(tmp_path / "1.png")
    (tmp_path / "data.csv").write_text("path,label\n1.png,99999\n")
    assert len(load_data(config("csv", tmp_path / "data.csv")).class_names) == 100_000
    (record,) = caplog.records
    assert record.getMessage().startswith("99999 classes have no training image: '0', '1'")


def test_licences_are_a_whitelist(tmp_path):
    save(tmp_path / "1.png")
    (tmp_path / "data.csv").write_text("path,label,license\n1.png,0,cc0\n1.png,1,unknown\n")
    kept = load_data(config("csv", tmp_path / "data.csv", allow_licenses=["cc0"]))
    assert kept.columns["license"] == ["cc0"]
    save(tmp_path / "folder" / "cat" / "1.png")
    with pytest.raises(ConfigError, match="no column 'license'"):
        load_data(config("imagefolder", tmp_path / "folder", allow_licenses=["cc0"]))


def test_a_kind_that_there_is_not(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.kind = 'folders'; there are digits-lt"):
        load_data(config("folders", tmp_path))


def bad_folder(tmp_path):
    for number in range(6):
        save(tmp_path / "cat" / f"{number}.png", size=(40, 40))
    (tmp_path / "cat" / "noise.png").write_bytes(b"not an image at all")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    huge_png(tmp_path / "cat" / "huge.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cat" / "cut.jpg")
    whole = (tmp_path / "cat" / "cut.jpg").read_bytes()
    (tmp_path / "cat" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    return tmp_path


def test_bad_images_are_quarantined_with_their_reason(tmp_path):
    table = load_data(config("imagefolder", bad_folder(tmp_path)))
    assert len(table) == 6
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in table.quarantined}
    assert set(reasons) == {"noise.png", "gone.png", "huge.png", "cut.jpg"}
    assert "not an image" in reasons["noise.png"]
    assert "No such file" in reasons["gone.png"]
    assert "pixels" in reasons["huge.png"]
    assert "damaged" in reasons["cut.jpg"]


def test_too_many_bad_images_stop_the_run(tmp_path):
    with pytest.raises(RunFailed, match=r"4 of 10 images.*max_bad_share = 0.1"):
        load_data(config("imagefolder", bad_folder(tmp_path), max_bad_share=0.1))


def test_trailing_bytes_after_the_end_are_harmless(tmp_path):
    path = save(tmp_path / "a.jpg", size=(16, 16))
    path.write_bytes(path.read_bytes() + b"\0\0camera footer")
    check_image(str(path))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_over_white(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 128)).save(tmp_path / "half.png")
    Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "none.png")
    red, green, blue = open_image(tmp_path / "half.png").getpixel((0, 0))
    assert red == 255 and 126 <= green <= 128 and green == blue
    assert open_image(tmp_path / "none.png").getpixel((0, 0)) == (255, 255, 255)


def test_palette_and_cmyk_keep_their_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    red.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    for name in ("palette.png", "cmyk.jpg"):
        assert np.abs(np.asarray(open_image(tmp_path / name), int) - (250, 10, 10)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3)
    exif = Image.Exif()
    exif[274] = orientation
    upright.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(expected))
    assert (open_image(tmp_path / "a.png").size == (4, 6)) == (orientation > 4)


def test_floating_point_pixels_are_refused():
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.ones((2, 2), np.float32)).save(buffer, "TIFF")
    with pytest.raises(DataError, match="floating-point"):
        decode_image(buffer.getvalue(), "x.tif")


def test_digits_of_low_quality_are_the_same_ones_spoilt(tmp_path):
    table = load_data(config("digits-lq", tmp_path))
    assert {split: len(table.rows(split)) for split in set(table.splits)} == {
        "train": 300, "id_val": 200, "id_test": 400, "val": 200, "test": 400
    }  # fmt: skip
    assert table.train_counts.tolist() == [30] * 10 and table.selection_split == "id_val"
    clean = {f"{row:04d}.png": image for row, image in enumerate(load_digits().images)}
    shown = {
        name: np.asarray(open_image(path).convert("L")) / 255 * 16
        for name, path in zip(table.ids, table.paths, strict=True)
    }
    spoilt = {name for name, image in shown.items() if np.abs(image - clean[name.rsplit("/")[-1]]).max() > 0.1}
    for split, share in {"train": 0.4, "id_val": 0.4, "id_test": 0.4, "val": 1, "test": 1}.items():
        names = [table.ids[row] for row in table.rows(split)]
        assert len(spoilt & set(names)) == share * len(names), split
    numbers = {split: {table.ids[row].rsplit("/")[-1] for row in table.rows(split)} for split in set(table.splits)}
    assert numbers["test"] == numbers["id_test"] and numbers["val"] == numbers["id_val"]
    assert not numbers["train"] & (numbers["test"] | numbers["val"])
