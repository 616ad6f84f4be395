"""A source image and a size policy in, the image to encode and the size to make it at out.

Sizes are (width, height) in pixels; the engine rounds down to the model's multiple as diffusers does.
"""

from PIL import Image

Size = tuple[int, int]


def fit_size(width: int, height: int, bound: Size) -> Size:
    """The largest size of the same aspect within `bound`; small images grow to it."""
    scale = min(bound[0] / width, bound[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def centre_crop(image: Image.Image, size: Size) -> Image.Image:
    """The largest centred part with the aspect of `size`."""
    width, height = fit_size(*size, bound=image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def apply_policy(image: Image.Image, size: Size | None, policy: str) -> tuple[Image.Image, Size | None]:
    """fit keeps the aspect within `size`; stretch takes `size` as it is; crop cuts the centre to its aspect.

    Without a size the image keeps its own: (image, None).
    """
    if size is None:
        return image, None
    if policy == "fit":
        return image, fit_size(*image.size, bound=size)
    return (centre_crop(image, size) if policy == "crop" else image), size
