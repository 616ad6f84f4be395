"""An image size and open_clip's preprocess settings in; the taps of Pillow's resize and the crop out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import PIL
import torch

from discl.kernels.clip_tiles import BITS, Tiles


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of the resize: output i is the sum over k of weight[i, k] * input[start[i] + k], plus fill[i].

    length: of the input. start: int32 [n]. weight: int32 [n, K] in units of 2**-22. fill: int32 [n] in pixel
    units; a padded output has no weights, only its fill.
    """

    length: int
    start: torch.Tensor
    weight: torch.Tensor
    fill: torch.Tensor

    def matrix(self) -> torch.Tensor:
        """float64 [n, length], the weights as one dense product: up to 9 MB, so it is made when asked for."""
        outputs, taps = self.weight.shape
        place = self.start.long()[:, None] + torch.arange(taps, device=self.start.device)
        matrix = self.weight.new_zeros((outputs, self.length + taps), dtype=torch.float64)
        return matrix.scatter_(1, place, self.weight.double())[:, : self.length] / (1 << BITS)


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """How images of one size become CLIP's input; made once per size by `ClipPlan.build`."""

    rows: Axis
    columns: Axis
    passes: tuple[str, str]  # "rows" and "columns" in the order in which they are resized
    resized: tuple[int, int]  # height and width before crop or padding
    filter: str  # of the resize
    fill: int  # of the padding
    mean: torch.Tensor  # float32 [3]
    std: torch.Tensor  # float32 [3]

    @property
    def height(self) -> int:
        return len(self.rows.start)

    @property
    def width(self) -> int:
        return len(self.columns.start)

    @functools.cached_property
    def tiles(self) -> Tiles | None:
        """The same resize for tensor cores; None where it does not fit them or does not begin with the columns."""
        return Tiles.build(self.rows, self.columns) if self.passes == ("columns", "rows") else None

    @functools.cached_property
    def lines(self) -> dict[torch.dtype, torch.Tensor]:
        """float32 [2, 3], offsets and factors, for each type in which value * factor + offset rounds to the same as
        (value / 255 - mean) / std, whatever the value of the pixel."""
        lines = _lines(tuple(self.mean.tolist()), tuple(self.std.tolist()))
        return {dtype: line.to(self.mean.device) for dtype, line in lines.items()}

    @classmethod
    def build(
        cls, height: int, width: int, preprocess: Mapping[str, Any], device: torch.device | str = "cpu"
    ) -> ClipPlan:
        """The plan for images of height x width; `preprocess` is open_clip's dictionary (size, mean, std,
        interpolation, resize_mode, fill_color). Raises ValueError for an unknown mode or interpolation."""
        target = _pair(preprocess["size"])
        mode, interpolation = preprocess["resize_mode"], preprocess["interpolation"]
        if mode not in RESIZED:
            raise ValueError(f"resize_mode: expected {'/'.join(RESIZED)}, given {mode}")
        if mode == "shortest" and target[0] != target[1]:
            interpolation = "bicubic"  # open_clip ignores the setting for targets that are not square
        if interpolation == "random":
            interpolation = "bicubic"  # random means: random in training
        if interpolation not in FILTERS:
            raise ValueError(f"interpolation: expected {'/'.join(FILTERS)}, given {interpolation}")
        fill = preprocess["fill_color"] if mode == "longest" else 0
        resized = RESIZED[mode]((height, width), target)
        rows, columns = (
            _axis(length, new, wanted, fill, FILTERS[interpolation], device)
            for length, new, wanted in zip((height, width), resized, target, strict=True)
        )
        mean, std = (torch.tensor(preprocess[key], dtype=torch.float32, device=device) for key in ("mean", "std"))
        passes = _passes((height, width), resized)
        channels = (mean.expand(3).contiguous(), std.expand(3).contiguous())
        return cls(rows, columns, passes, resized, interpolation, fill, *channels)


@functools.lru_cache
def _lines(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[torch.dtype, torch.Tensor]:
    """Found by trial near the exact factors and offsets, and kept if all 256 values agree."""
    center, scale = (torch.tensor(values, dtype=torch.float32)[:, None] for values in (mean, std))
    value = torch.arange(256, dtype=torch.float32)
    exact = (value / 255.0 - center) / scale
    factors = _near((1 / (255 * scale.double())).float())[:, :, None]
    offsets = _near((-center.double() / scale.double()).float())[:, None, :]
    found = {}
    for dtype in (torch.float16, torch.bfloat16):
        same = (value * factors[..., None] + offsets[..., None]).to(dtype) == exact.to(dtype)[:, None, None]
        good, best = same.all(-1).flatten(1).max(1)
        if good.all():
            pairs = torch.broadcast_tensors(offsets, factors)
            found[dtype] = torch.stack([each.flatten(1).gather(1, best[:, None])[:, 0] for each in pairs])
    return found


def _near(exact: torch.Tensor) -> torch.Tensor:
    """float32 [3, 1] -> [3, 17], each number and its eight neighbours on both sides."""
    return (exact.view(torch.int32) + torch.arange(-8, 9, dtype=torch.int32)).view(torch.float32)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


# Heights and widths after the resize, as torchvision's Resize and open_clip's ResizeKeepRatio compute them.

Size = tuple[int, int]


def _shortest(size: Size, target: Size) -> Size:
    if target[0] != target[1]:
        return _keep_ratio(size, target, min)
    height, width = size
    long = int(target[0] * max(size) / min(size))
    return (long, target[0]) if width <= height else (target[0], long)


def _longest(size: Size, target: Size) -> Size:
    return _keep_ratio(size, target, max)


def _squash(size: Size, target: Size) -> Size:
    return target


def _passes(size: Size, resized: Size) -> tuple[str, str]:
    """Since Pillow 13 an image that loses more than twice as many rows as columns loses its rows first."""
    rows, columns = size[0] - resized[0], size[1] - resized[1]
    rows_first = int(PIL.__version__.split(".")[0]) >= 13 and rows > max(0, 2 * columns)
    return ("rows", "columns") if rows_first else ("columns", "rows")


def _keep_ratio(size: Size, target: Size, choose: Callable[..., float]) -> Size:
    ratio = choose(size[0] / target[0], size[1] / target[1])
    return round(size[0] / ratio), round(size[1] / ratio)


RESIZED = {"shortest": _shortest, "longest": _longest, "squash": _squash}


# Pillow's filters: the weight of a tap by its distance, and the distance where the filter ends.


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, None)


def _bicubic(x: np.ndarray) -> np.ndarray:
    x, a = np.abs(x), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


FILTERS = {"bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0)}


def window_start(resized: int, wanted: int) -> int:
    """Of a centred window: what is too long is cropped (Python's half-to-even round), too short is padded."""
    return round((resized - wanted) / 2.0) if resized >= wanted else -((wanted - resized) // 2)


def _axis(
    length: int,
    resized: int,
    wanted: int,
    fill: int,
    filtering: tuple[Callable, float],
    device: torch.device | str,
) -> Axis:
    start, weight = _taps(length, resized, *filtering)
    place = np.arange(wanted) + window_start(resized, wanted)
    real = (place >= 0) & (place < resized)
    place = place.clip(0, resized - 1)
    start, weight = start[place], weight[place] * real[:, None]
    arrays = (start, weight, np.where(real, 0, fill))
    return Axis(length, *(torch.from_numpy(array.astype(np.int32)).to(device) for array in arrays))


def _taps(length: int, resized: int, curve: Callable, support: float) -> tuple[np.ndarray, np.ndarray]:
    """First input [n] and integer weights [n, K] of every output, with Pillow's arithmetic."""
    scale = length / resized
    stretch = max(scale, 1.0)
    center = (np.arange(resized) + 0.5) * scale
    start = (center - support * stretch + 0.5).astype(np.int64).clip(0)
    stop = (center + support * stretch + 0.5).astype(np.int64).clip(None, length)
    taps = np.arange((stop - start).max())
    weight = curve((taps + start[:, None] - center[:, None] + 0.5) * (1.0 / stretch))
    weight = np.where(taps < (stop - start)[:, None], weight, 0.0)
    weight /= weight.cumsum(1)[:, -1:]
    return start, np.trunc(weight * (1 << BITS) + np.copysign(0.5, weight)).astype(np.int64)
