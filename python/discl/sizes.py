"""A source image and a size policy in, the image to encode and the size to make it at out.

Sizes are (width, height) in pixels; the engine rounds down to the model's multiple as diffusers does.

    fit      the source's aspect, as large as `size` allows
    stretch  `size` as it is
    crop     the centre of the source with the aspect of `size`
    bucket   the centre of the source with the aspect of the nearest shape of a fixed set (see `bucket_shapes`)
"""

import math
from functools import lru_cache

import numpy as np
from PIL import Image

Size = tuple[int, int]

MULTIPLES = (64, 32, 16, 8)  # of a bucket's sides: Stable Diffusion's UNets halve an 8 times smaller latent three times
CELLS = 4  # a side of `size` has at least as many multiples
LONGEST_ASPECT = 4


def fit_size(width: int, height: int, bound: Size) -> Size:
    """The largest size of the same aspect within `bound`; small images grow to it."""
    scale = min(bound[0] / width, bound[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


@lru_cache(maxsize=16)
def bucket_shapes(size: Size) -> tuple[Size, ...]:
    """The set of shapes for `size`, from the narrowest to the widest.

    Sides are multiples of 64, or of 32, 16, 8 where `size` has a side of less than four of these. To every side w
    belongs the side nearest to size[0] * size[1] / w; kept are shapes with at most a quarter more or fewer pixels than
    that and aspects from 1:4 to 4:1, each with the one lying on its side.
    """
    step = next((step for step in MULTIPLES if min(size) >= CELLS * step), MULTIPLES[-1])
    cells = size[0] * size[1] / step**2
    longest = math.ceil(math.sqrt(cells * LONGEST_ASPECT)) + 1
    pairs = [(long, max(1, math.floor(cells / long + 0.5))) for long in range(1, longest + 1)]
    wide = {
        (long, short)
        for long, short in pairs
        if short <= long <= LONGEST_ASPECT * short and abs(long * short / cells - 1) <= 1 / 4
    } or {(max(1, round(math.sqrt(cells))),) * 2}
    shapes = wide | {(short, long) for long, short in wide}
    return tuple(sorted(((w * step, h * step) for w, h in shapes), key=lambda shape: shape[0] / shape[1]))


def nearest_bucket(width: int, height: int, size: Size) -> Size:
    """The shape whose aspect differs by the smallest factor; the wider of two."""
    aspect = math.log(width / height)
    return min(reversed(bucket_shapes(size)), key=lambda shape: abs(math.log(shape[0] / shape[1]) - aspect))


def made_size(width: int, height: int, size: Size | None, policy: str, upscale: int = 1) -> Size | None:
    """The size to make a source of width x height at; None for its own.

    upscale: how many times its own size a source without `size` is made at; the engine enlarges it (Lanczos).
    """
    if size is None:
        return None if upscale == 1 else (width * upscale, height * upscale)
    if policy == "fit":
        return fit_size(width, height, bound=size)
    return nearest_bucket(width, height, size) if policy == "bucket" else size


def centre_crop(image: Image.Image, size: Size) -> Image.Image:
    """The largest centred part with the aspect of `size`."""
    width, height = fit_size(*size, bound=image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def apply_policy(
    image: Image.Image, size: Size | None, policy: str, upscale: int = 1
) -> tuple[Image.Image, Size | None]:
    """The part of the image that is used, and the size to make it at. Without a size all of it: (image, None)."""
    made = made_size(*image.size, size, policy, upscale)
    cropped = size is not None and policy in {"crop", "bucket"}
    return (centre_crop(image, made) if cropped and made else image), made


def brought_back(image: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [H, W, 3] made of an enlarged source -> [size[1], size[0], 3], the source's own size (Lanczos)."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
