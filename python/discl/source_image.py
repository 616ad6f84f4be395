"""A source's file and the [spectrum] table in, the image to encode and the size to make it at out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from discl.data.images import image_size, open_image
from discl.engine.pixels import MAX_PIXELS
from discl.errors import DataError
from discl.sizes import Size, apply_policy, made_size
from discl.sources import READERS

if TYPE_CHECKING:
    from discl.config import SpectrumConfig

SMALLEST_SIDE = 8  # pixels; a latent cell of the supported models. A coarser model's engine says so by itself.


def open_source(path: str, spectrum: "SpectrumConfig") -> tuple[Image.Image, Size | None]:
    """The image and the size to make it at, None for its own. DataError for one that no model can be asked for."""
    image, size = apply_policy(open_image(path), spectrum.size, spectrum.size_policy, spectrum.upscale)
    refusal = _refusal(size or image.size)
    if refusal:
        raise DataError(f"{path}: {refusal}")
    return image, size


def refusals(paths: Sequence[str], spectrum: "SpectrumConfig") -> list[str]:
    """Why `open_source` refuses each file for its size; empty where it does not."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(_refused, spectrum=spectrum), paths))


def _refused(path: str, spectrum: "SpectrumConfig") -> str:
    """Most headers tell. Only where one way round would be refused must the image say which way is up."""
    made = partial(made_size, size=spectrum.size, policy=spectrum.size_policy, upscale=spectrum.upscale)
    try:
        size = image_size(path)
        if any(_refusal(made(*way) or way) for way in (size, size[::-1])):
            open_source(path, spectrum)
    except DataError as error:
        return str(error)
    return ""


def _refusal(made: Size) -> str:
    width, height = made
    if min(made) < SMALLEST_SIDE:
        return (
            f"would be made at {width} x {height} pixels, a side needs at least {SMALLEST_SIDE}; "
            "remove it, set a larger [spectrum] size or size_policy = 'crop'"
        )
    if width * height > MAX_PIXELS:
        return (
            f"would be made at {width} x {height}, more than {MAX_PIXELS:,} pixels; remove it, set [spectrum] size or "
            "lower upscale"
        )
    return ""
