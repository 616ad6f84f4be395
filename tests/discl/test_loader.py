"""DALI's batches equal the plain loader's, whose pixels PIL makes; damage is replaced and counted."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from discl.dataset import SpectrumDataset
from discl.errors import RunFailed
from discl.evaluation import evaluation_batches
from discl.loader import CurriculumLoader
from discl.torch_loader import TorchLoader
from discl.views import render, windows
from tests.discl.loading import CROPS, GREY, PLAIN, RESAMPLED, assert_same, loader, textured
from tests.discl.spectrum_samples import make_store, make_table


@pytest.fixture
def data(tmp_path):
    return SpectrumDataset(make_store(tmp_path / "store"), make_table(tmp_path / "data"))


@pytest.mark.parametrize("view", [PLAIN, CROPS, GREY], ids=["plain", "crops", "grey"])
def test_both_loaders_yield_the_same_batches(data, view):
    textured(data)
    dali, plain = loader(CurriculumLoader, data, view), loader(TorchLoader, data, view)
    for _ in range(3):
        pairs = list(zip(dali, plain, strict=True))
        assert len(pairs) == len(dali) == 4
        for first, second in pairs:
            assert_same(first, second, **RESAMPLED)


def test_a_batch_is_what_the_sampler_says(data):
    source = loader(CurriculumLoader, data)
    rows = [source.sampler.rows(0, step) for step in range(4)]
    batches = list(source)
    assert [len(batch["label"]) for batch in batches] == [8, 8, 8, 4]
    for expected, batch in zip(rows, batches, strict=True):
        assert batch["id"] == data.ids[expected].tolist()
        assert batch["image"].shape == (len(expected), 3, 8, 8)
        assert batch["image"].dtype == torch.float32
        red = torch.round(batch["image"][:, 0, 0, 0]).int()
        assert red.tolist() == (200 * data.labels[expected]).tolist()  # flat colours: red is the class
        blue = batch["image"][:, 2, 0, 0].int()
        assert blue.tolist() == [level % 100 for level in data.levels[expected]]


def test_pixels_are_pils(data):
    textured(data)
    batch = next(iter(loader(CurriculumLoader, data, CROPS, policy="none")))
    source = loader(TorchLoader, data, CROPS, policy="none")
    boxes, flips = windows(CROPS, 5, 0, np.arange(8))
    assert flips.any() and not flips.all()
    for place, row in enumerate(source.sampler.rows(0, 0)):
        expected = render(data[row]["image"], CROPS, boxes[place], flips[place])
        torch.testing.assert_close(batch["image"][place], expected, atol=RESAMPLED["atol"], rtol=0)


def test_render_without_a_window_is_pils_resize():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR), dtype=np.float32)
    assert np.array_equal(render(image, PLAIN).numpy().transpose(1, 2, 0), expected)
    assert np.array_equal(render(image, PLAIN, flipped=True).numpy().transpose(1, 2, 0), expected[:, ::-1])


def test_windows_stay_inside_and_cover_the_area_they_should():
    boxes, flips = windows(CROPS, seed=1, epoch=2, positions=np.arange(4000))
    assert boxes.min() >= 0 and boxes.max() <= 1
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides > 0.4).all()
    areas = sides.prod(1)
    assert areas.max() <= 1 and areas.min() >= 0.25  # a side clipped at 1 loses some of the 0.3
    assert 0.6 < areas.mean() < 0.68
    assert 0.45 < flips.mean() < 0.55
    again, _ = windows(CROPS, seed=1, epoch=2, positions=np.arange(100, 110))
    assert np.array_equal(again, boxes[100:110])
    assert not np.array_equal(boxes, windows(CROPS, seed=1, epoch=3, positions=np.arange(4000))[0])


@pytest.mark.parametrize("kind", [CurriculumLoader, TorchLoader])
def test_consumed_batches_count_not_prefetched_ones(data, kind):
    whole = [batch for _ in range(3) for batch in loader(kind, data)] and loader(kind, data)
    expected = [batch for _ in range(3) for batch in whole]
    first = loader(kind, data)
    seen = []
    for batch in first:
        seen.append(batch)
        if len(seen) == 2:
            break
    resumed = loader(kind, data)
    resumed.load_state_dict(first.state_dict())
    seen += [batch for _ in range(3) for batch in resumed]
    for one, other in zip(seen, expected, strict=True):
        assert_same(one, other)


def test_a_loader_that_was_left_in_the_middle_goes_on_there(data):
    source, whole = loader(CurriculumLoader, data), list(loader(CurriculumLoader, data))
    seen = [next(iter(source)), *source]
    for one, other in zip(seen, whole, strict=True):
        assert_same(one, other)


def test_ranks_share_the_batch_also_when_one_gets_nothing(data):
    alone = list(loader(CurriculumLoader, data, batch=9))  # 28 images: the last batch holds one
    ranks = [list(loader(CurriculumLoader, data, batch=9, rank=rank, world=3)) for rank in range(3)]
    assert sorted(len(rank[-1]["label"]) for rank in ranks) == [0, 0, 1]
    for step, batch in enumerate(alone):
        parts = [ranks[rank][step] for rank in range(3)]
        merged = sorted(name for part in parts for name in part["id"])
        assert merged == sorted(batch["id"])


def damage_quietly(path):
    """Zero bytes inside the compressed pixels: header and end are sound."""
    content = Path(path).read_bytes()
    middle = len(content) // 2
    Path(path).write_bytes(content[:middle] + b"\0" * 12 + content[middle + 12 :])


@pytest.mark.parametrize("kind", [CurriculumLoader, TorchLoader])
@pytest.mark.parametrize("how", ["header", "pixels", "gone"])
def test_a_damaged_image_is_replaced_by_the_next_of_its_class(data, kind, how):
    textured(data)
    if how == "header":
        Path(data.paths[25]).write_bytes(b"no image")
    elif how == "pixels":
        damage_quietly(data.paths[25])
    else:
        Path(data.paths[25]).unlink()
    source = loader(kind, data)
    names = [name for batch in source for name in batch["id"]]
    assert source.substituted == 1
    assert data.ids[25] not in names
    assert names.count(data.ids[26]) == 2


def test_dali_and_torch_replace_alike(data):
    textured(data)
    damaged = [2, 3, 25]
    for row in damaged:
        damage_quietly(data.paths[row])
    order = loader(CurriculumLoader, data).sampler
    asked = sum(np.isin(rows, damaged).sum() for _ in range(3) for rows in order)
    dali, plain = loader(CurriculumLoader, data), loader(TorchLoader, data)
    for _ in range(3):
        for first, second in zip(dali, plain, strict=True):
            assert_same(first, second, **RESAMPLED)
    assert dali.substituted == plain.substituted == asked > 0


def test_what_dali_refuses_and_pil_takes_is_decoded_by_pil(data):
    """PNGs whose pixels have another checksum: they used to end the run."""
    textured(data)
    for row in (1, 25):
        content = bytearray(Path(data.paths[row]).read_bytes())
        content[-13] ^= 1
        Path(data.paths[row]).write_bytes(content)
    dali, plain = loader(CurriculumLoader, data), loader(TorchLoader, data)
    for _ in range(3):
        for first, second in zip(dali, plain, strict=True):
            assert_same(first, second, **RESAMPLED)
    assert dali.substituted == plain.substituted == 0


def test_grey_is_pils_whatever_colour_space_a_file_names(data):
    textured(data)
    for path in data.paths:
        chunk = PngInfo()
        chunk.add(b"sRGB", b"\0")
        image = Image.open(path).convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, "PNG", pnginfo=chunk)
        Path(path).write_bytes(buffer.getvalue())
    dali, plain = (loader(kind, data, GREY, policy="none") for kind in (CurriculumLoader, TorchLoader))
    for first, second in zip(dali, plain, strict=True):
        assert_same(first, second, **RESAMPLED)


def test_a_class_without_any_good_image_stops_the_run(data):
    for row in range(24, 28):
        Path(data.paths[row]).write_bytes(b"no image")
    with pytest.raises(RunFailed, match="no usable image of class 'a/b ü' at level 100 is left"):
        list(loader(CurriculumLoader, data))


def test_unusual_files_look_as_pil_shows_them(data):
    random = np.random.default_rng(0)
    deep = np.linspace(0, 65535, 81).astype(np.uint16).reshape(9, 9)
    colours = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    colours = colours.resize((40, 40), Image.Resampling.BICUBIC)
    faint = colours.copy()
    faint.putalpha(100)
    exif = Image.Exif()
    exif[274] = 6
    writers = [
        lambda file: Image.fromarray(deep).save(file, "PNG"),
        lambda file: colours.convert("CMYK").save(file, "JPEG"),
        lambda file: colours.convert("P", palette=Image.Palette.ADAPTIVE).save(file, "PNG"),
        lambda file: faint.save(file, "PNG"),
        lambda file: colours.save(file, "JPEG", exif=exif),
        lambda file: colours.save(file, "BMP"),
    ]
    for path, write in zip(data.paths, writers, strict=False):
        buffer = io.BytesIO()
        write(buffer)
        Path(path).write_bytes(buffer.getvalue())
    dali, plain = (loader(kind, data, policy="none") for kind in (CurriculumLoader, TorchLoader))
    for first, second in zip(dali, plain, strict=True):
        assert_same(first, second, **RESAMPLED)


@pytest.mark.parametrize("held", [True, False])
def test_evaluation_batches_hold_every_row_in_order_each_time(data, held, monkeypatch):
    monkeypatch.setattr("discl.evaluation.HELD_BYTES", 1 << 20 if held else 0)
    batches = evaluation_batches(data, PLAIN, batch=16)
    assert isinstance(batches, list) == held
    for _ in range(2):
        assert [name for batch in batches for name in batch["id"]] == data.ids.tolist()
