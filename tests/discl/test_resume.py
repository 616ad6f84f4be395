"""The same global batches: from any batch on, on any number of ranks, with damage, and after the store has grown."""

import json
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from discl.dataset import SpectrumDataset
from discl.loader import CurriculumLoader
from discl.sampler import CurriculumSampler
from discl.store import Store, StoreWriter
from discl.torch_loader import TorchLoader
from tests.discl.loading import CROPS, loader, textured
from tests.discl.spectrum_samples import key, make_store, make_table, png
from tests.discl.test_curriculum import config

EPOCHS = 3


@pytest.fixture
def folder(tmp_path):
    make_store(tmp_path / "store")
    textured(SpectrumDataset(None, make_table(tmp_path / "data")))
    return tmp_path


def opened(folder, at=None, selection="default"):
    return SpectrumDataset(Store(folder / "store", at=at), make_table_again(folder), selection)


def make_table_again(folder):
    """The table of the files that are there, as they are."""
    kept = {file: file.read_bytes() for file in (folder / "data").iterdir()}
    table = make_table(folder / "data")
    for file, data in kept.items():
        file.write_bytes(data)
    return table


def batches(source, epochs=EPOCHS):
    return [batch for _ in range(source.sampler.epoch, epochs) for batch in source]


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one["id"] == other["id"]
        for name in ("image", "label", "level", "is_synth"):
            assert torch.equal(one[name], other[name])


def merged(ranks):
    """The batches of all ranks as the global ones: rank r holds positions r, r + world, ..."""
    out = []
    for step, parts in enumerate(zip(*ranks, strict=True)):
        first = step * 8 % len(parts)  # all batches but the last of an epoch hold 8
        parts = parts[first:] + parts[:first]
        size = sum(len(part["label"]) for part in parts)
        batch = {"id": [parts[place % len(parts)]["id"][place // len(parts)] for place in range(size)]}
        for name in ("image", "label", "level", "is_synth"):
            batch[name] = torch.stack([parts[p % len(parts)][name][p // len(parts)] for p in range(size)])
        out.append(batch)
    return out


def damage(folder, seed):
    """A file cut short, one with wrong pixels, one that is gone, and records of the store with flipped bytes."""
    rng = random.Random(seed)
    files = sorted((folder / "data").glob("train-0-*.png"))
    short, wrong, gone = rng.sample(files, 3)
    short.write_bytes(short.read_bytes()[:20])
    wrong.write_bytes(wrong.read_bytes()[:50] + bytes(len(wrong.read_bytes()) - 50))
    gone.unlink()
    store = Store(folder / "store")
    table = store.table.to_pylist()
    for row in rng.sample(table[:-1], 2):
        shard = folder / "store" / "shards" / f"{row['shard']:06d}.tar"
        data = bytearray(shard.read_bytes())
        data[row["offset"] + rng.randrange(row["length"])] ^= 0x40
        shard.write_bytes(bytes(data))
    return 5


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_ranks_sees_the_same_global_batches(folder, world, damaged):
    if damaged:
        damage(folder, world)
    alone = loader(CurriculumLoader, opened(folder), CROPS)
    expected = batches(alone)
    ranks = [loader(CurriculumLoader, opened(folder), CROPS, rank=rank, world=world) for rank in range(world)]
    assert_equal(merged([batches(rank) for rank in ranks]), expected)
    assert sum(rank.substituted for rank in ranks) == alone.substituted
    assert bool(alone.substituted) == damaged


@pytest.mark.parametrize("kind", [CurriculumLoader, TorchLoader])
@pytest.mark.parametrize("damaged", [False, True])
def test_going_on_at_any_batch_on_other_ranks(folder, kind, damaged):
    """Stopped at every batch of the first epochs, continued on two ranks."""
    if damaged:
        damage(folder, 7)
    expected = batches(loader(kind, opened(folder), CROPS))
    source = loader(kind, opened(folder), CROPS)
    states = [source.state_dict()]
    for _ in range(2):
        for _ in source:
            states.append(json.loads(json.dumps(source.state_dict())))
    for place in range(0, len(states), 3):
        ranks = [loader(kind, opened(folder), CROPS, rank=rank, world=2) for rank in range(2)]
        for rank in ranks:
            rank.load_state_dict(states[place])
        assert_equal(merged([batches(rank) for rank in ranks]), expected[place:])


def grow(folder):
    """More images of the selected class, and a selection that takes them in."""
    with StoreWriter(folder / "store", "later", shard_bytes=1 << 20) as writer:
        for number in range(100, 112):
            row = {"key": key(number), "source_id": "train-1-0.png", "class_id": 1, "class_name": "a/b ü"}
            writer.append(
                row | {"level": 50 * (number % 2), "seed": number, "retry": 0, "status": "ok"},
                png((0, 0, 9)),
                "png",
                None,
            )
    store = Store(folder / "store")
    store.write_selection("default", [*store.selection("default"), *(key(n) for n in range(100, 112))], {"rule": "all"})


def test_a_store_that_grew_in_the_middle_changes_nothing(folder):
    expected = batches(loader(CurriculumLoader, opened(folder), CROPS))
    first = loader(CurriculumLoader, opened(folder), CROPS)
    seen = []
    for batch in first:
        seen.append(batch)
        if len(seen) == 2:
            break
    state, snapshot = first.state_dict(), first.dataset.store.snapshot()
    grow(folder)
    assert Store(folder / "store").snapshot() != snapshot
    resumed = loader(CurriculumLoader, opened(folder, at=snapshot), CROPS)
    resumed.load_state_dict(state)
    assert_equal(seen + batches(resumed), expected)
    assert len(opened(folder)) == len(opened(folder, at=snapshot)) + 12


class Foreign:
    """Somebody's own loop: their transform, torch's DataLoader, our dataset and sampler."""

    def __init__(self, folder, workers):
        self.dataset = opened(folder)
        self.dataset.transform = lambda image: torch.from_numpy(np.array(image.resize((6, 6))))
        keys = {"epochs": 4, "curriculum_epochs": 2, "nontail_share": 1.0, "synthetic_scale": 2.5}
        self.sampler = CurriculumSampler(self.dataset, config("diverse-to-specific", **keys), 8, 5)
        self.loader = DataLoader(self.dataset, batch_sampler=self.sampler, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_foreign_loop_sees_the_same_images_in_the_same_order(folder, workers, damaged):
    if damaged:
        damage(folder, 3)
    expected = loader(CurriculumLoader, opened(folder), CROPS)
    foreign = Foreign(folder, workers)
    for _ in range(2):
        pairs = list(zip(foreign.loader, expected, strict=True))
        for own, ours in pairs:
            assert own["id"] == ours["id"]
            for name in ("label", "level", "is_synth"):
                assert torch.equal(own[name], ours[name])
            assert own["image"].shape[1:] == (6, 6, 3)
    if not workers:  # elsewhere each worker counts its own
        assert foreign.dataset.substituted == expected.substituted


def test_a_dataset_reads_batches_as_it_reads_items(folder):
    data = opened(folder)
    rows = [3, 0, 39, 30, 3, -1]
    for one, other in zip(data.__getitems__(rows), [data[row] for row in rows], strict=True):
        assert one["image"].tobytes() == other["image"].tobytes()
        assert {**one, "image": None} == {**other, "image": None}
    with pytest.raises(IndexError):
        data.__getitems__([40])
