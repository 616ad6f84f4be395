"""How images reach a classifier: size, channels, scale of values, and which window of the image is seen.

Windows and flips are functions of (seed, epoch, position), so they do not depend on worker, rank or restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from discl._C import philox

FILTERS = {
    "linear": Image.Resampling.BILINEAR,
    "cubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class View:
    """size: pixels per side. channels: 1 (grey) or 3. mean, std: of values 0..255. filter: linear, cubic or lanczos.

    min_area: smallest share of the image that a training window covers (1: all of it). flip: left-right.
    """

    size: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    filter: str = "linear"
    min_area: float = 1.0
    flip: bool = False

    @classmethod
    def of_shares(cls, size: int, mean: Sequence[float], std: Sequence[float], **more) -> "View":
        """The same with mean and std of values 0..1, as most models state them."""
        return cls(size, mean=tuple(255 * value for value in mean), std=tuple(255 * value for value in std), **more)

    @property
    def augments(self) -> bool:
        return self.min_area < 1 or self.flip


def windows(view: View, seed: int, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, 4] of (left, top, right, bottom) as shares of the image, and bool [n]: flipped or not."""
    if not view.augments:
        return np.tile(np.array(WHOLE, dtype=np.float32), (len(positions), 1)), np.zeros(len(positions), dtype=bool)
    words = philox(seed, epoch, positions).astype(np.float64) / 2**32
    area = view.min_area + (1 - view.min_area) * words[:, 0]
    aspect = (4 / 3) ** (2 * words[:, 1] - 1)  # as torchvision's RandomResizedCrop, relative to the image's own
    width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    left = (1 - width) * ((words[:, 2] * 2**16) % 1)
    top = (1 - height) * words[:, 2]
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    return np.minimum(boxes, 1).astype(np.float32), view.flip & (words[:, 3] < 0.5)


def render(image: Image.Image, view: View, window=WHOLE, flipped=False) -> torch.Tensor:
    """An RGB image as float32 [channels, size, size]: window, resize with antialias, flip, normalise."""
    image = image.convert("L" if view.channels == 1 else "RGB")
    left, top, right, bottom = (float(share) for share in window)
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    image = image.resize((view.size, view.size), FILTERS[view.filter], box=box)
    pixels = np.asarray(image, dtype=np.float32).reshape(view.size, view.size, view.channels)
    values = (pixels - np.array(view.mean, np.float32)) / np.array(view.std, np.float32)
    values = values[:, ::-1] if flipped else values
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
