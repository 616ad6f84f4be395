"""Size policies and buckets, against Pillow and plain search."""

import math

import numpy as np
import pytest
from PIL import Image

from discl.sizes import apply_policy, brought_back, bucket_shapes, centre_crop, fit_size, made_size, nearest_bucket

SIZES = [(512, 512), (1024, 1024), (480, 272), (256, 384), (64, 64), (32, 32), (100, 20), (16384, 8)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("image", "bound", "expected"),
    [((100, 50), (64, 64), (64, 32)), ((8, 8), (32, 64), (32, 32)), ((48, 64), (480, 272), (204, 272)),
     ((1000, 1), (64, 64), (64, 1))],
)  # fmt: skip
def test_fit_keeps_the_aspect_within_the_bound(image, bound, expected):
    assert fit_size(*image, bound=bound) == expected


def test_policies():
    image = noise(100, 50)
    assert apply_policy(image, None, "fit") == (image, None)
    assert apply_policy(image, (32, 32), "fit") == (image, (32, 16))
    assert apply_policy(image, (32, 32), "stretch") == (image, (32, 32))
    cut, size = apply_policy(image, (32, 32), "crop")
    assert (cut.size, size) == ((50, 50), (32, 32))
    assert cut.tobytes() == image.crop((25, 0, 75, 50)).tobytes()
    assert centre_crop(image, (300, 10)).size == (100, 3)


@pytest.mark.parametrize("size", SIZES)
def test_the_shapes_have_about_the_pixels_asked_for_in_whole_multiples(size):
    shapes = bucket_shapes(size)
    step = next((step for step in (64, 32, 16) if min(size) >= 4 * step), 8)
    assert len(set(shapes)) == len(shapes)
    assert {(height, width) for width, height in shapes} == set(shapes)
    for width, height in shapes:
        assert width % step == height % step == 0
        assert 0.75 <= width * height / (size[0] * size[1]) <= 1.25
        assert max(width, height) <= 4 * min(width, height)


def test_the_square_ones_are_as_they_are_known():
    assert {(512, 512), (384, 640), (768, 320), (256, 1024)} <= set(bucket_shapes((512, 512)))
    assert {(1024, 1024), (896, 1152), (832, 1216), (768, 1344)} <= set(bucket_shapes((1024, 1024)))
    assert bucket_shapes((1, 1)) == ((8, 8),)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_bucket_is_found_by_plain_search(size, seed):
    random = np.random.default_rng(seed)
    for width, height in random.integers(1, 2000, (50, 2)):
        factors = {shape: abs(math.log(shape[0] / shape[1] * height / width)) for shape in bucket_shapes(size)}
        assert factors[nearest_bucket(width, height, size)] == pytest.approx(min(factors.values()))


def test_a_bucket_cuts_little_from_usual_aspects():
    for aspect in np.geomspace(1 / 3.5, 3.5, 200):
        width, height = round(1000 * aspect**0.5), round(1000 / aspect**0.5)
        cut = centre_crop(Image.new("L", (width, height)), nearest_bucket(width, height, (512, 512)))
        assert cut.width * cut.height >= 0.85 * width * height


def test_a_bucket_is_the_centre_of_the_source():
    image = noise(300, 100)
    cut, size = apply_policy(image, (64, 64), "bucket")
    assert (cut.size, size) == ((300, 86), (112, 32))
    assert cut.tobytes() == image.crop((0, 7, 300, 93)).tobytes()


@pytest.mark.parametrize("policy", ["fit", "crop", "stretch", "bucket"])
def test_upscale_makes_a_source_without_size_that_many_times_as_large(policy):
    assert made_size(32, 24, None, policy, 4) == (128, 96)
    assert made_size(32, 24, (64, 64), policy, 4) == made_size(32, 24, (64, 64), policy)


def test_what_is_brought_back_is_pillows():
    image = noise(128, 96)
    expected = image.resize((32, 24), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(brought_back(np.asarray(image), (32, 24)), np.asarray(expected))
