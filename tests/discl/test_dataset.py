"""The dataset is the table's real rows, then the selection by level, class and key, whatever the order in the store."""

import io

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from discl.dataset import SpectrumDataset
from discl.errors import ConfigError, DataError, StoreError
from tests.discl.spectrum_samples import key, make_store, make_table


@pytest.fixture
def table(tmp_path):
    return make_table(tmp_path / "data")


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def test_real_rows_come_first_then_levels_with_sorted_keys(table, store):
    data = SpectrumDataset(store, table)
    assert (data.n_real, len(data)) == (28, 40)
    assert data.ids[:28].tolist() == table.ids[:28]
    by_level = [sorted(key(i) for i in range(first, 12, 2)) for first in (0, 1)]
    assert data.ids[28:].tolist() == by_level[0] + by_level[1]
    assert data.levels[28:].tolist() == [0] * 6 + [50] * 6
    assert data.labels.tolist() == [0] * 24 + [1] * 16
    assert set(data.levels[:28]) == {100}
    assert np.bincount(data.levels[28:]).tolist()[::50] == [6, 6]
    assert data.is_synth.tolist() == [False] * 28 + [True] * 12
    assert data.tail.tolist() == [False] * 24 + [True] * 4 + [False] * 12


def test_items_carry_the_image_and_what_is_known_of_it(table, store):
    data = SpectrumDataset(store, table)
    real, made = data[25], data[30]
    assert (real["label"], real["id"], real["level"], real["is_synth"]) == (1, "train-1-1.png", 100, False)
    assert real["image"].getpixel((0, 0)) == (200, 1, 0)
    assert (made["label"], made["is_synth"], made["id"]) == (1, True, data.ids[30])
    assert made["image"].getpixel((0, 0))[2] == made["level"] == data.levels[30]


def test_encoded_bytes_are_the_files_own(table, store):
    data = SpectrumDataset(store, table)
    with open(table.paths[3], "rb") as file:
        assert data.encoded(3) == file.read()
    with Image.open(io.BytesIO(data.encoded(30))) as image:
        assert image.size == (32, 32)


def test_transform_and_torch_data_loader(table, store):
    data = SpectrumDataset(store, table, transform=lambda image: np.asarray(image.resize((4, 4))))
    batch = next(iter(DataLoader(data, batch_size=40)))
    assert batch["image"].shape == (40, 4, 4, 3)
    assert batch["label"].tolist() == data.labels.tolist()


def test_real_only_and_other_splits(table):
    data = SpectrumDataset(None, table, split="test")
    assert len(data) == data.n_real == 6
    assert not data.is_synth.any()
    assert SpectrumDataset(None, table, tail=[0, 2]).tail.nonzero()[0].tolist() == [0, 2]


def test_a_store_of_other_classes(tmp_path, table):
    with pytest.raises(StoreError, match="the data has no class 'wolf', of which the store has selected images; use"):
        SpectrumDataset(make_store(tmp_path / "store", class_name="wolf"), table)


def test_a_selection_that_names_a_key_the_store_lacks(table, store):
    store.selection = lambda name: ["f" * 32]
    with pytest.raises(StoreError, match=r"selection .default.: sample f+ is not in .*; select again"):
        SpectrumDataset(store, table)


def test_a_file_that_is_gone(tmp_path, table):
    (tmp_path / "data" / "train-0-0.png").unlink()
    with pytest.raises(DataError, match=r"train-0-0\.png: cannot be read: No such file"):
        SpectrumDataset(None, table).encoded(0)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"store": "runs/store"}, r"store='runs/store'\): it has no selection.* open it with discl\.Store\(path\)"),
        ({"store": SpectrumDataset}, "a class, not one of its objects"),
        ({"data": "images/"}, r"data='images/'\): it has no kind.* give a DataTable"),
        ({"data": None}, "give a DataTable"),
        ({"selection": 5}, "give its name in the store, or the keys"),
        ({"selection": b"default"}, "give its name in the store, or the keys"),
        ({"transform": 224}, "give a function of a PIL image"),
        ({"split": "trian"}, "give one of train, val, test"),
        ({"tail": [0.5]}, "give table rows from 0 to 33"),
        ({"tail": [34]}, "give table rows from 0 to 33"),
        ({"tail": 3}, "give table rows from 0 to 33"),
        ({"without": ["0.png"]}, "give table rows from 0 to 33"),
        ({"without": [-1]}, "give table rows from 0 to 33"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named_with_its_remedy(table, given, advice):
    with pytest.raises(ConfigError, match=advice):
        SpectrumDataset(**({"store": None, "data": table} | given))
