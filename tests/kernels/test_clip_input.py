import PIL
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from discl.kernels import ClipPlan, clip_input, clip_pictures, clip_window, reference

# height, width; among them: the target itself, tiny, thin both ways, one side equal, half-pixel crops.
SIZES = [(32, 32), (67, 45), (45, 67), (32, 51), (33, 32), (8, 8), (3, 97), (200, 31), (255, 257), (1, 1)]
EXACT = {"atol": 1e-6, "rtol": 0}  # one step of a uint8 pixel is 0.014: the pixels must be the same


def settings(**changes):
    defaults = PreprocessCfg(size=32, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    return {**vars(defaults), **changes}


def noise(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


def open_clip_says(images, preprocess):
    transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    return torch.stack([transform(Image.fromarray(image.numpy())) for image in images])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "preprocess",
    [
        settings(),
        settings(interpolation="bilinear"),
        settings(resize_mode="squash"),
        settings(resize_mode="longest", fill_color=99),
        settings(resize_mode="longest", interpolation="bilinear", size=(24, 40)),
        settings(interpolation="bilinear", size=(40, 24)),
        settings(resize_mode="squash", size=(20, 31)),
    ],
    ids=lambda p: f"{p['resize_mode']}-{p['interpolation']}-{p['size']}",
)
def test_equals_open_clip_on_pil_images(size, preprocess):
    if preprocess["resize_mode"] == "longest" and size == (3, 97):
        size = (5, 97)  # 3 pixels high would become 0.99 of a pixel: Pillow refuses
    images = noise(2, *size)
    plan = ClipPlan.build(*size, preprocess)
    for ours in (clip_input, reference.clip_input):
        torch.testing.assert_close(ours(images, plan, torch.float32), open_clip_says(images, preprocess), **EXACT)
    windows = [clip_window(image, plan) for image in images]
    unchanging = ClipPlan.build(plan.height, plan.width, preprocess)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(clip_pictures(windows, [unchanging] * 2, dtype), clip_pictures(images, [plan] * 2, dtype))


@pytest.mark.parametrize("size", [(512, 768), (333, 500)])
def test_equals_open_clip_at_full_size(size):
    images, preprocess = noise(1, *size), settings(size=224)
    plan = ClipPlan.build(*size, preprocess)
    for ours in (clip_input, reference.clip_input):
        torch.testing.assert_close(ours(images, plan, torch.float32), open_clip_says(images, preprocess), **EXACT)


# Triton's interpreter cuts to bf16 where torch and the device round: one unit in the last place.
DTYPES = [(torch.float32, 0, 0), (torch.bfloat16, 0, 2**-7), (torch.float16, 0, 0)]


@pytest.mark.parametrize("dtype, atol, rtol", DTYPES)
@pytest.mark.parametrize("shape", [(2, 67, 45), (2, 200, 31), (1, 32, 32), (3, 9, 14), (0, 20, 30)])
def test_equals_its_reference(shape, dtype, atol, rtol, device):
    plan = ClipPlan.build(*shape[1:], settings(), device)
    images = noise(*shape).to(device)
    expected = reference.clip_input(images, plan, dtype)
    assert expected.dtype == dtype and expected.shape == (shape[0], 3, 32, 32)
    torch.testing.assert_close(clip_input(images, plan, dtype), expected, atol=atol, rtol=rtol)


ROWS_FIRST = int(PIL.__version__.split(".")[0]) >= 13  # for images that lose most in their rows
# Height, width, and how the kernel takes them: span, chunk and rows of its tiles; None where they are too many or the
# rows go first.
WAYS = [
    ((32, 32), (32, 32, 32)),
    ((129, 100), (128, 32, 8)),
    ((300, 200), (256, 64, 8)),
    ((300, 41), None if ROWS_FIRST else (64, 64, 8)),
    ((40, 300), (256, 32, 32)),
    ((40, 700), None),
    ((16, 16), (32, 32, 32)),
]


@pytest.mark.parametrize("size, way", WAYS)
def test_equals_its_reference_whichever_way_it_goes(size, way, device):
    plan = ClipPlan.build(*size, settings(resize_mode="squash"), device)
    tiles = plan.tiles
    assert way == (tiles and (tiles.span, tiles.chunk, tiles.rows))
    images = noise(2, *size).to(device)
    images[1] = 255 * (images[1] > 127)  # the filter shoots over
    torch.testing.assert_close(
        clip_input(images, plan), reference.clip_input(images, plan, torch.float32), atol=0, rtol=0
    )


def test_images_of_the_generators_size_go_the_fast_way():
    tiles = ClipPlan.build(512, 512, settings(size=224)).tiles
    shape = (tiles.align, tiles.span, tiles.chunk, tiles.rows, tiles.begun, tiles.whole)
    assert shape == (16, 64, 32, 16, 8, True)


@pytest.mark.parametrize("mean, std", [((0.48, 0.46, 0.41), (0.27, 0.26, 0.28)), ((0.5,) * 3, (0.5,) * 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_product_and_sum_normalise_every_pixel(mean, std, dtype):
    plan = ClipPlan.build(32, 32, settings(mean=mean, std=std))
    offset, factor = plan.lines[dtype].split(1)
    value = torch.arange(256.0)[:, None]
    exact = (value / 255.0 - torch.tensor(mean)) / torch.tensor(std)
    assert torch.equal((value * factor + offset).to(dtype), exact.to(dtype))


def test_equals_its_reference_where_it_pads(device):
    plan = ClipPlan.build(19, 50, settings(resize_mode="longest", fill_color=200), device)
    images = noise(2, 19, 50).to(device)
    torch.testing.assert_close(
        clip_input(images, plan), reference.clip_input(images, plan, torch.float32), atol=0, rtol=0
    )


def test_an_image_of_the_target_size_is_only_normalised():
    images = noise(2, 32, 32)
    neutral = settings(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels = clip_input(images, ClipPlan.build(32, 32, neutral)).mul(255).round()
    torch.testing.assert_close(pixels, images.permute(0, 3, 1, 2).float(), atol=0, rtol=0)


def test_says_what_was_given_and_what_is_expected():
    plan = ClipPlan.build(20, 30, settings())
    with pytest.raises(ValueError, match=r"images: expected uint8 \[B, 20, 30, 3\] .* given uint8 \[1, 30, 20, 3\]"):
        clip_input(noise(1, 30, 20), plan)
    with pytest.raises(ValueError, match="given float32"):
        clip_input(noise(1, 20, 30).float(), plan)
    with pytest.raises(ValueError, match=r"dtype: expected .* given torch\.int64"):
        clip_input(noise(1, 20, 30), plan, torch.int64)
    with pytest.raises(ValueError, match="resize_mode: expected shortest/longest/squash, given fit"):
        ClipPlan.build(20, 30, settings(resize_mode="fit"))
    with pytest.raises(ValueError, match="interpolation: expected bilinear/bicubic, given nearest"):
        ClipPlan.build(20, 30, settings(interpolation="nearest"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("changes", [{}, {"resize_mode": "longest", "fill_color": 99}], ids=str)
def test_pictures_of_several_sizes_equal_one_by_one(dtype, changes):
    """Among them a tensor that is laid out otherwise, and one of the target's own size."""
    images = [noise(67, 45), noise(32, 32), noise(45, 67), noise(67, 45).flip(1), noise(50, 60).permute(1, 0, 2)]
    plans = [ClipPlan.build(*image.shape[:2], settings(**changes)) for image in images]
    expected = torch.cat(
        [reference.clip_input(image[None], plan, dtype) for image, plan in zip(images, plans, strict=True)]
    )
    pictures = [Image.fromarray(image.numpy()) for image in images]
    for given in (images, pictures, [pictures[0], *images[1:]]):
        ours = clip_pictures(given, plans, dtype)
        assert ours.is_contiguous() and torch.equal(ours, expected)


def test_says_which_picture_does_not_fit_its_plan():
    plan = ClipPlan.build(20, 30, settings())
    with pytest.raises(ValueError, match="image: expected RGB of 30 x 20, given L of 30 x 20"):
        clip_pictures([Image.new("L", (30, 20))], [plan], torch.float32)
    with pytest.raises(ValueError, match="image: expected RGB of 30 x 20, given RGB of 20 x 30"):
        clip_pictures([Image.new("RGB", (20, 30))], [plan], torch.float32)
    with pytest.raises(ValueError, match=r"image: expected uint8 \[20, 30, 3\] on cpu, given uint8 \[30, 20, 3\]"):
        clip_pictures([noise(30, 20)], [plan], torch.float32)
