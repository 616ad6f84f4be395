"""Any PIL image -> RGB, the one way in which the whole package reads pixels."""

import numpy as np
from PIL import Image

MAX_PIXELS = 64_000_000  # of one image, read or made
WHITE = (255, 255, 255, 255)
ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16 bits divided by 257 (65535 -> 255), alpha over white, other modes as Pillow converts them.

    Raises ValueError for pixels without an agreed range, and whatever Pillow raises for a file it cannot decode.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # the one mode that Pillow makes of it
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, WHITE)
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(pixels: np.ndarray) -> Image.Image:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels outside 0..65535; save it with 8 or 16 bits")
    return Image.fromarray(((pixels.astype(np.int64) + 128) // 257).astype(np.uint8))
