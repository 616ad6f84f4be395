"""The renderer against its obvious twin in numpy's float64: values, memory, refusals."""

import numpy as np
import pytest

from discl._C import Renderer

MEAN, STD = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
IMAGE = np.zeros((4, 4, 3), np.uint8)
KERNELS = {
    "linear": (1, lambda x: 1 - x),
    "cubic": (2, lambda x: np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)),
    "lanczos": (3, lambda x: np.sinc(x) * np.sinc(x / 3)),
}


def weights(filter, begin, end, count, size):
    """[size, count]: what each of `count` pixels gives to each output pixel; those beyond a border are the border's."""
    reach, kernel = KERNELS[filter]
    scale = (end - begin) / size
    stretch = max(scale, 1)
    out = np.zeros((size, count))
    for x in range(size):
        centre = begin + (x + 0.5) * scale - 0.5
        pixels = np.arange(int(centre - reach * stretch) - 2, int(centre + reach * stretch) + 3)
        distance = np.abs(pixels - centre) / stretch
        values = np.where(distance < reach, kernel(distance), 0)
        np.add.at(out[x], np.clip(pixels, 0, count - 1), values / values.sum())
    return out


def exact(image, box, flipped, size, filter):
    """float64 [channels, size, size] of values 0..255, not rounded."""
    height, width, _ = image.shape
    left, top, right, bottom = (float(side) for side in box)
    across = weights(filter, left * width, right * width, width, size)
    down = weights(filter, top * height, bottom * height, height, size)
    pixels = np.einsum("yh,hwc,xw->cyx", down, image.astype(float), across)
    return np.clip(pixels[:, :, ::-1] if flipped else pixels, 0, 255)


def problem(seed):
    random = np.random.default_rng(seed)
    channels, count = int(random.choice([1, 3])), int(random.integers(0, 6))
    size, filter = int(random.integers(1, 40)), str(random.choice(list(KERNELS)))
    images = [random.integers(0, 256, (*random.integers(1, 80, 2), channels), np.uint8) for _ in range(count)]
    corners = np.sort(random.random((count, 2, 2), np.float32), axis=1).reshape(-1, 4)
    whole = random.random(count) < 0.3
    boxes = np.where(whole[:, None], np.array([0, 0, 1, 1], np.float32), corners)
    renderer = Renderer(size, filter, MEAN[:channels], STD[:channels], int(random.integers(1, 4)))
    return renderer, images, boxes, random.random(count) < 0.5, size, filter


@pytest.mark.parametrize("seed", range(60))
def test_values_are_the_exact_ones_rounded_to_8_bits(seed):
    renderer, images, boxes, flipped, size, filter = problem(seed)
    out = renderer.render(images, boxes, flipped)
    assert out.dtype == np.float32 and out.shape[0] == len(images) and out.shape[2:] == (size, size)
    for image, box, flip, found in zip(images, boxes, flipped, out, strict=True):
        expected = exact(image, box, flip, size, filter)
        channels = len(expected)
        pixels = found * np.array(STD[:channels])[:, None, None] + np.array(MEAN[:channels])[:, None, None]
        np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)
        assert np.abs(np.rint(pixels) - expected).max() <= 0.5 + 1e-3, f"seed {seed}"


@pytest.mark.parametrize("size", [1, 3, 4, 5, 31, 64])
def test_a_whole_image_of_the_views_size_stays_as_it_is(size):
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    renderer = Renderer(size, "linear", (0, 0, 0), (1, 1, 1))
    straight, mirrored = renderer.render([image, image], np.array([[0, 0, 1, 1]] * 2), np.array([False, True]))
    np.testing.assert_array_equal(straight, image.transpose(2, 0, 1))
    np.testing.assert_array_equal(mirrored, image.transpose(2, 0, 1)[:, :, ::-1])


@pytest.mark.parametrize("seed", range(5))
def test_an_image_is_the_same_alone_and_among_others(seed):
    renderer, images, boxes, flipped, *_ = problem(seed)
    together = renderer.render(images, boxes, flipped)
    for n, image in enumerate(images):
        np.testing.assert_array_equal(renderer.render([image], boxes[n : n + 1], flipped[n : n + 1])[0], together[n])


def test_memory_serves_again_only_when_it_is_gone():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    renderer = Renderer(224, "linear", MEAN, STD)
    whole, straight = np.array([[0, 0, 1, 1]]), np.array([False])
    first = renderer.render([image], whole, straight)
    kept, before = first[0, 1:], first.copy()
    place = first.ctypes.data
    del first
    second = renderer.render([255 - image], whole, straight)
    assert second.ctypes.data != place
    np.testing.assert_array_equal(kept, before[0, 1:])
    del kept
    assert renderer.render([image], whole, straight).ctypes.data == place


def test_windows_come_where_the_caller_wants_them():
    renderer, images, boxes, flipped, *_ = problem(seed=1)
    assert images
    expected = renderer.render(images, boxes, flipped)
    out = np.full_like(expected, np.nan)
    assert renderer.render(images, boxes, flipped, out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda out: out[0], ValueError, r"out is not \[images, channels, size, size\]"),
        (lambda out: out[:, :, :, 1:].copy(), ValueError, "out is not"),
        (lambda out: out.astype(float), TypeError, "incompatible function arguments"),
        (lambda out: out[:, :, ::-1], TypeError, "incompatible function arguments"),
        (lambda out: np.broadcast_to(out, out.shape), ValueError, "not writeable"),
    ],
    ids=["dimensions", "shape", "dtype", "strides", "read-only"],
)
def test_memory_that_cannot_hold_the_windows_is_refused(change, error, message):
    out = change(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(error, match=message):
        Renderer(8, "linear", MEAN, STD).render([IMAGE], np.array([[0, 0, 1, 1]]), np.array([False]), out)


def test_memory_outlives_the_renderer():
    image = np.full((2, 2, 1), 7, np.uint8)
    out = Renderer(300, "cubic", (0,), (1,)).render([image], np.array([[0, 0, 1, 1]]), np.array([False]))
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        ([IMAGE], [[0, 0, 1, 1]] * 2, "4 sides and a flip for each of 1 images"),
        ([IMAGE], [[0, 0, 1]], "4 sides and a flip"),
        ([IMAGE[..., :1]], [[0, 0, 1, 1]], r"image 0 is not \[height, width, 3\]"),
        ([IMAGE, IMAGE[:0]], [[0, 0, 1, 1]] * 2, "image 1 is not"),
        ([IMAGE], [[0, 0, 1, 1.1]], "window 0 is no part of its image"),
        ([IMAGE], [[0.5, 0, 0.5, 1]], "window 0 is no part"),
        ([IMAGE], [[0, float("nan"), 1, 1]], "window 0 is no part"),
    ],
)
def test_what_makes_no_sense_is_refused(images, boxes, message):
    renderer = Renderer(8, "linear", MEAN, STD)
    with pytest.raises(ValueError, match=message):
        renderer.render(images, np.array(boxes, np.float32), np.zeros(len(images), bool))


@pytest.mark.parametrize("view", [(0, "linear", MEAN, STD), (8, "box", MEAN, STD), (8, "linear", MEAN[:2], STD[:2])])
def test_a_view_that_makes_no_sense_is_refused(view):
    with pytest.raises(ValueError, match=r"expected linear, cubic or lanczos|a view has a size"):
        Renderer(*view)
