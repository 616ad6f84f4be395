"""Encoded images come in; data URIs small enough for a page go out."""

import base64
import io

from PIL import Image

SIDE = 96  # pixels: twice the size at which a cell of the grid is shown


def data_uri(encoded: bytes, side: int = SIDE) -> str:
    """A `data:` URI of the image, shrunk to at most `side` pixels, as WebP (lossless up to 32 pixels).

    Metadata is dropped, so that a thousand thumbnails fit in a page.
    """
    with Image.open(io.BytesIO(encoded)) as file:
        image = file.convert("RGB")
        image.thumbnail((side, side))
        packed = io.BytesIO()
        image.save(packed, "webp", lossless=max(image.size) <= 32, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
