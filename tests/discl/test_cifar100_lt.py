"""CIFAR100-LT in both of its published forms: pixels, counts, and files that are wrong."""

import pickle

import numpy as np
import pytest

from discl.data import load_data
from discl.data.cifar100_lt import long_tail
from discl.data.images import open_image
from tests.discl.data_kinds import config, refused

SHORT = ["apple", "bear", "crab", "dog"]


def cifar_images(seed, per_class):
    """Every image differs; classes are shuffled."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(SHORT)), per_class))
    return random.integers(0, 256, (len(labels), 3072), dtype=np.uint8), labels


def cifar_binary(folder, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fine_label_names.txt").write_text("\n".join(SHORT) + "\n")
    for seed, split in enumerate(("train", "test")):
        pixels, labels = cifar_images(first + seed, 20 if split == "train" else 2)
        np.concatenate([0 * labels[:, None], labels[:, None], pixels], axis=1).astype(np.uint8).tofile(
            folder / f"{split}.bin"
        )
    return folder


def cifar_python(folder, first=0, protocol=2):
    """Protocol 2 and bytes as keys, as the published batches have."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in SHORT]}, protocol))
    for seed, split in enumerate(("train", "test")):
        pixels, labels = cifar_images(first + seed, 20 if split == "train" else 2)
        batch = {b"data": pixels, b"fine_labels": labels.tolist(), b"filenames": [b"x.png"] * len(labels)}
        (folder / split).write_bytes(pickle.dumps(batch, protocol))
    return folder


def cifar_python_anew(folder):
    return cifar_python(folder, protocol=pickle.HIGHEST_PROTOCOL)


@pytest.mark.parametrize("form", [cifar_binary, cifar_python, cifar_python_anew])
def test_cifar_has_the_pixels_of_the_published_rows(tmp_path, form):
    table = load_data(config("cifar100-lt", form(tmp_path / "cifar"), imbalance=10))
    assert table.class_names == tuple(SHORT)
    assert table.train_counts.tolist() == [20, 9, 4, 2]
    assert len(table.rows("test")) == 8
    for seed, split in enumerate(("train", "test")):
        pixels, labels = cifar_images(seed, 20 if split == "train" else 2)
        for row in table.rows(split):
            number = int(table.ids[row][-9:-4])
            assert labels[number] == table.labels[row]
            shown = np.asarray(open_image(table.paths[row])).transpose(2, 0, 1).reshape(-1)
            assert np.array_equal(shown, pixels[number])


def test_both_versions_choose_the_same_images(tmp_path):
    tables = [load_data(config("cifar100-lt", form(tmp_path / form.__name__))) for form in (cifar_binary, cifar_python)]
    assert tables[0].ids == tables[1].ids


@pytest.mark.parametrize("form", [cifar_binary, cifar_python])
def test_pictures_follow_the_files_that_they_were_written_of(tmp_path, form):
    """Other data in the same folder, and the same data again: never another's pictures, and none is written twice."""
    folder, shown = tmp_path / "cifar", []
    for first in (0, 7, 0):
        form(folder, first)
        table = load_data(config("cifar100-lt", folder, imbalance=10))
        pixels = cifar_images(first, 20)[0]
        for row in table.rows("train"):
            image = np.asarray(open_image(table.paths[row])).transpose(2, 0, 1).reshape(-1)
            assert np.array_equal(image, pixels[int(table.ids[row][-9:-4])])
        shown.append(table.paths)
    assert shown[0] == shown[2] != shown[1]
    assert len(list(folder.glob("discl-png-*"))) == 2


@pytest.mark.parametrize(("imbalance", "total"), [(100, 10_847), (50, 12_608)])
def test_the_papers_cifar_counts(imbalance, total):
    labels = np.tile(np.arange(100), 500)
    rows = long_tail(labels, 100, imbalance)
    assert len(rows) == len(set(rows.tolist())) == total
    counts = np.bincount(labels[rows])
    assert counts[0] == 500 and counts[99] == 500 // imbalance


def test_an_upscaled_variant_is_the_source_and_not_the_training_image(tmp_path):
    folder, large = cifar_binary(tmp_path / "cifar"), tmp_path / "large"
    large.mkdir()
    table = load_data(config("cifar100-lt", folder, upscaled=str(large)))
    assert table.source(3) == str(large / table.ids[3]) != table.paths[3]
    refused(r"data\.upscaled = .*: no such folder", "cifar100-lt", folder, upscaled=str(tmp_path / "no"))


class Bomb:
    def __reduce__(self):
        return (print, ("the pickle ran code",))


@pytest.mark.parametrize("bomb", [Bomb(), {b"data": np.array([{}], object)}, [1], {b"data": 1.5}])
def test_a_pickle_that_is_not_plain_is_refused(tmp_path, bomb, capsys):
    folder = cifar_python(tmp_path / "cifar")
    (folder / "train").write_bytes(pickle.dumps(bomb, 2))
    refused(r"train: .*(could run code|no batch of plain data|holds a list)", "cifar100-lt", folder)
    assert "ran code" not in capsys.readouterr().out


def test_cifar_files_that_are_wrong(tmp_path):
    folder = cifar_binary(tmp_path / "cifar")
    whole = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(whole[:-1])
    refused(r"train\.bin: .* no whole number of records of 3074; download", "cifar100-lt", folder)
    (folder / "train.bin").write_bytes(whole[:3075] + b"\x63" + whole[3076:])
    refused(r"train\.bin, row 1: fine label 99 is out of range, 0\.\.3", "cifar100-lt", folder)
    for names, message in (
        ("apple\nbear\n../crab\ndog", r"row 3: '\.\./crab' cannot"),
        ("a\nb\na\n", "row 3: 'a' cannot"),
        ("a\nb\nc\0d\n", r"row 3: 'c\\x00d' cannot"),
    ):
        (folder / "fine_label_names.txt").write_text(names)
        refused(rf"fine_label_names\.txt, {message} name a class and its folder; download", "cifar100-lt", folder)
    refused(r"neither train\.bin .* nor train and meta", "cifar100-lt", tmp_path)
