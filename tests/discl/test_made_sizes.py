"""What size a run makes and keeps its images at, against the engine alone and Pillow."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discl.engine import Request
from discl.generation import generate, make_engine
from discl.store import Store
from tests.discl.project import FakeEngine, loaded, make_project

CLASSES = {"red fox": 2}
LEAST = ["spectrum.seeds=1", "spectrum.levels=[50]", "store.format=png"]


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    """Two sources, 72 x 40 and 40 x 40."""
    file = make_project(tmp_path, tiny_models, CLASSES, side=40)
    random = np.random.default_rng(1)
    wide = Image.fromarray(random.integers(0, 256, (40, 72, 3), dtype=np.uint8))
    wide.save(tmp_path / "data" / "red fox" / "0.png")
    return file


def by_width(store: Store, file: Path) -> dict[int, tuple[dict, Image.Image]]:
    """Source width -> (its row, the source)."""
    rows = {row["source_id"]: row for row in store.table.to_pylist()}
    sources = {name: Image.open(file.parent / "data" / name) for name in rows}
    return {sources[name].width: (row, sources[name]) for name, row in rows.items()}


def made_alone(config, row: dict, image: Image.Image, size=None):
    """The engine's sample for one row's wish, of this image at this size."""
    request = Request(
        image, row["prompt"], row["level"], row["noise_seed"], class_name=row["class_name"], size=size, key=row["key"]
    )
    with make_engine(config, config.engine.slots) as engine:
        (sample,) = engine.run([request])
    return sample


def test_a_bucket_run_makes_the_cropped_source_at_the_buckets_shape(file):
    config = loaded(file, *LEAST, "spectrum.size=[32, 32]", "spectrum.size_policy=bucket")
    store = generate(config)
    rows = by_width(store, file)
    # The nearest of 40 x 24 and its kin for 72 x 40 is that shape, and its aspect takes 67 x 40 of the source.
    for width, cut, size in ((72, (2, 0, 69, 40), (40, 24)), (40, (0, 0, 40, 40), (32, 32))):
        row, source = rows[width]
        sample = made_alone(config, row, source.crop(cut), size)
        np.testing.assert_array_equal(store.image(row["key"]), sample.image)
        assert (row["size_policy"], row["width"], row["height"]) == ("bucket", *size)


def test_upscaled_sources_come_back_at_their_own_size_and_are_scored_as_given(file):
    config = loaded(file, *LEAST, "spectrum.upscale=2")
    store = generate(config)
    for width, (row, source) in by_width(store, file).items():
        sample = made_alone(config, row, source, (2 * width, 80))
        assert sample.image.shape == (80, 2 * width, 3)
        expected = Image.fromarray(sample.image).resize(source.size, Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(store.image(row["key"]), np.asarray(expected))
        assert (row["width"], row["height"], row["size_policy"]) == (*source.size, "own")
        assert row["image_score"] == np.float32(sample.image_score)
        assert row["text_score"] == np.float32(sample.text_score)


@pytest.mark.parametrize("policy", ["fit", "crop", "stretch", "bucket"])
def test_the_tar_tells_policy_and_size(file, policy):
    store = generate(loaded(file, *LEAST, "spectrum.size=[32, 32]", f"spectrum.size_policy={policy}"))
    with tarfile.open(Path(store.path) / "shards" / "000000.tar") as tar:
        told = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
    assert len(told) == 2
    for row in told:
        assert row["size_policy"] == policy
        assert store.image(row["key"]).shape == (row["height"], row["width"], 3)


def test_failed_samples_name_the_policy_and_no_size(file):
    class Broken(FakeEngine):
        def sample(self, request):
            sample = super().sample(request)
            sample.status, sample.image, sample.text_score = "nan", None, None
            return sample

    for row in generate(loaded(file, *LEAST, "spectrum.upscale=2"), make=Broken).table.to_pylist():
        assert (row["size_policy"], row["width"], row["height"], row["shard"]) == ("own", None, None, None)
