"""Pictures that are decoded ahead give open_clip's embeddings in order, with PIL and with DALI; threads end."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from discl.decoding import CPU, ON_GPU
from discl.engine.scorer import Scorer
from discl.errors import StoreError
from discl.scoring.embedder import Embedder
from discl.scoring.gpu_decoder import GpuDecoder, suits
from discl.scoring.pictures import Block, Picture, loaded

SIZES = [(40, 30), (64, 64), (40, 30), (97, 31), (64, 64), (512, 384)]  # width, height
FORMATS = [("JPEG", {"quality": 90}), ("JPEG", {"quality": 75, "progressive": True}), ("PNG", {}), ("WEBP", {})]


@pytest.fixture(scope="module")
def scorer(tiny_models) -> Scorer:
    return Scorer.from_pretrained(f"{tiny_models}/clip", batch=4)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def files(seed: int = 0) -> dict[str, bytes]:
    """Textured pictures of every size and format, and three that nobody can decode."""
    random, made = np.random.default_rng(seed), {}
    for width, height in SIZES:
        for format, options in FORMATS:
            coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize((width, height))
            grain = np.asarray(coarse, np.int16) + random.integers(-12, 13, (height, width, 3))
            image = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
            made[f"{len(made)}"] = encoded(image, format, **options)
    whole = made["20"]
    made["cut"] = whole[: len(whole) // 2]
    frame = whole.index(b"\xff\xc0")
    made["no sampling"] = whole[: frame + 11] + b"\0" + whole[frame + 12 :]
    made["grey"] = encoded(image.convert("L"), "JPEG")
    made["text"] = b"\xff\xd8\xff no image"
    return made


def lost() -> bytes:
    raise FileNotFoundError(2, "No such file or directory")


def blocks(made: dict[str, bytes], size: int = 5) -> list[Block]:
    pictures = [Picture(name, lambda data=data: data) for name, data in made.items()]
    pictures[3:3] = [Picture("lost", lost), None]
    groups = [pictures[at : at + size] for at in range(0, len(pictures), size)]
    return [Block(number, group, np.full((len(group), 8), np.nan, np.float32)) for number, group in enumerate(groups)]


def pil_says(made: dict[str, bytes]) -> dict[str, Image.Image]:
    found = {}
    for name, data in made.items():
        try:
            found[name] = Image.open(io.BytesIO(data)).convert("RGB")
        except OSError:
            continue
    return found


def embedded(scorer: Scorer, made: dict[str, bytes]) -> tuple[np.ndarray, dict[str, str]]:
    """Embeddings of every picture in order, and reasons by path."""
    reasons: dict[str, str] = {}
    given = blocks(made)
    for block in given:
        block.embedded = np.full((len(block.pictures), scorer.width), np.nan, np.float32)
    with closing(Embedder(scorer, reasons.update).embed(given)) as done:
        found = list(done)
    assert [block.rows for block in found] == list(range(len(given)))
    return np.concatenate([block.embedded for block in found]), reasons


def test_pictures_are_embedded_in_order_and_bad_ones_named(scorer):
    made = files()
    found, reasons = embedded(scorer, made)
    names = list(made)
    names[3:3] = ["lost", "none"]
    good = pil_says(made)
    assert set(reasons) == set(made) - set(good) | {"lost"} and len(good) == len(made) - 3
    assert reasons["lost"] == "lost: cannot be read: No such file or directory"
    for name, vector in zip(names, found, strict=True):
        if name in good:
            assert np.array_equal(vector, scorer.embed_pil([good[name]])[0].numpy()), name
        else:
            assert np.isnan(vector).all(), name


def test_an_embedding_that_is_there_stays(scorer):
    kept = np.ones(scorer.width, np.float32)
    block = Block(0, [Picture("a", lambda: files()["0"]), None], np.stack([kept, kept * np.nan]))
    with closing(Embedder(scorer, list, on_cpu=True).embed([block])) as done:
        (found,) = done
    assert np.array_equal(found.embedded[0], kept) and np.isnan(found.embedded[1]).all()
    assert found.images()[0].size == SIZES[0] and found.images()[1] is None


def test_an_error_comes_after_the_blocks_before_it_and_ends_the_threads(scorer):
    made = blocks(files())[:2]
    for block in made:
        block.embedded = np.full((len(block.pictures), scorer.width), np.nan, np.float32)

    def failing():
        yield from made
        raise StoreError("the third is damaged")

    done = Embedder(scorer, list).embed(failing())
    assert [next(done).rows, next(done).rows] == [0, 1]
    with pytest.raises(StoreError, match="the third"):
        next(done)
    assert not any(thread.name.startswith("discl-") for thread in threading.enumerate())


def test_closing_ends_the_threads(scorer):
    def endless():
        while True:
            yield Block(0, [Picture("lost", lost)] * 3, np.full((3, scorer.width), np.nan, np.float32))

    done = Embedder(scorer, list).embed(endless())
    next(done)
    done.close()
    assert not any(thread.name.startswith("discl-") for thread in threading.enumerate())


class TestDali:
    """The decoder of a GPU, its decoding done on the CPU."""

    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("nvidia.dali")

    @pytest.fixture(scope="class")
    def decoder(self):
        return GpuDecoder(torch.device("cpu"), 5, 2, CPU)

    @staticmethod
    def decode(decoder: GpuDecoder, given) -> list[Block]:
        with ThreadPoolExecutor(2) as pool:
            return list(decoder.decoded(loaded(given, pool, suits), pool))

    def check(self, found: list[Block], made: dict[str, bytes]) -> None:
        good = pil_says(made)
        pictures = [picture for block in found for picture in block.pictures if picture]
        assert [block.rows for block in found] == list(range(len(found)))
        for picture in pictures:
            assert (picture.path in good) == (picture.pixels is not None) == (not picture.reason), picture
            if picture.pixels is not None:
                off = np.asarray(good[picture.path], int) - picture.pixels.numpy()
                assert abs(off).max() <= 2, picture.path

    def test_pixels_are_pils_and_bad_ones_named(self, decoder):
        made = files(1)
        assert sum(map(suits, made.values())) == 2 * len(SIZES) + 2
        self.check(self.decode(decoder, blocks(made)), made)

    def test_it_serves_again_also_after_an_early_end(self, decoder):
        made = files(3)
        with ThreadPoolExecutor(2) as pool:
            begun = decoder.decoded(loaded(blocks(made), pool, suits), pool)
            next(begun)
            begun.close()
        self.check(self.decode(decoder, blocks(made)), made)
        self.check(self.decode(decoder, []), made)
        self.check(self.decode(decoder, blocks({"png": made["2"]} | made)), made | {"png": made["2"]})

    def test_an_error_comes_after_the_blocks_before_it(self, decoder):
        made = files(4)

        def failing():
            yield from blocks(made)[:2]
            raise StoreError("the third is damaged")

        found = []
        with ThreadPoolExecutor(2) as pool, pytest.raises(StoreError, match="the third"):
            found.extend(decoder.decoded(loaded(failing(), pool, suits), pool))
        self.check(found, made)
        assert len(found) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("decoding", ON_GPU, ids=lambda decoding: decoding.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gpus_scores_of_jpegs_are_pils(tiny_models, scorer, dtype, decoding, monkeypatch, record_property):
    pytest.importorskip("nvidia.dali")
    monkeypatch.setattr("discl.scoring.embedder.GpuDecoder", partial(GpuDecoder, decoding=decoding))
    made = {name: data for name, data in files(5).items() if data[:2] == b"\xff\xd8"}
    expected, reasons = embedded(scorer, made)
    found, same_reasons = embedded(Scorer.from_pretrained(f"{tiny_models}/clip", "cuda", dtype, 4), made)
    assert set(reasons) == set(same_reasons)
    texts = scorer.embed_texts(["a photo of a fox", "a drawing of an owl", "noise"]).numpy()
    shift = np.abs(expected @ texts.T - found @ texts.T)
    record_property("largest shift", float(np.nanmax(shift)))
    assert np.array_equal(np.isnan(expected), np.isnan(found))
    assert np.nanmax(shift) < (2e-3 if dtype == torch.float32 else 5e-3), shift.max(1)


@pytest.mark.gpu
def test_a_gpu_decodes_jpegs_itself():
    pytest.importorskip("nvidia.dali")
    decoder = GpuDecoder(torch.device("cuda"), 5, 2)
    made = files(6)
    with ThreadPoolExecutor(2) as pool:
        found = list(decoder.decoded(loaded(blocks({name: made[name] for name in ("0", "2", "8")}), pool, suits), pool))
    pixels = {picture.path: picture.pixels for block in found for picture in block.pictures if picture}
    assert pixels["0"].is_cuda and pixels["8"].is_cuda and not pixels["2"].is_cuda
