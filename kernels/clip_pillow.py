"""`clip_input` on a CPU: Pillow's own resize, image by image in threads, then the window and the normalisation.

Pillow's arithmetic in integers is what the other paths reproduce; on two cores it takes a fifth of the time of the
float64 products of `reference.clip_input`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from discl.kernels.clip_plan import ClipPlan, window_start

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def clip_input(images: torch.Tensor, plan: ClipPlan, dtype: torch.dtype) -> torch.Tensor:
    """See discl.kernels.clip_input."""
    pixels = np.full((len(images), plan.height, plan.width, 3), plan.fill, np.uint8)
    (rows, from_rows), (columns, from_columns) = (
        _window(resized, wanted) for resized, wanted in zip(plan.resized, (plan.height, plan.width), strict=True)
    )

    if plan.resized == tuple(images.shape[1:3]):  # small images in threads cost more than a small tower
        pixels[:, rows, columns] = images.numpy()[:, from_rows, from_columns]
        return _normalised(pixels, plan, dtype)

    def resize(at: int) -> None:
        image = Image.fromarray(images[at].numpy()).resize(plan.resized[::-1], FILTERS[plan.filter])
        pixels[at, rows, columns] = np.asarray(image)[from_rows, from_columns]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done in [pool.submit(resize, at) for at in range(len(images))]:
            done.result()
    return _normalised(pixels, plan, dtype)


def _normalised(pixels: np.ndarray, plan: ClipPlan, dtype: torch.dtype) -> torch.Tensor:
    """uint8 [B, h, w, 3] -> [B, 3, h, w]."""
    channels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    mean, std = plan.mean.view(3, 1, 1), plan.std.view(3, 1, 1)
    return channels.float().div_(255).sub_(mean).div_(std).to(dtype).contiguous()


def _window(resized: int, wanted: int) -> tuple[slice, slice]:
    """Where the image lies in the result, and which part of it."""
    start = window_start(resized, wanted)
    length = min(resized, wanted)
    return slice(max(-start, 0), max(-start, 0) + length), slice(max(start, 0), max(start, 0) + length)
