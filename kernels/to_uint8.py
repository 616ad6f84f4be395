"""Decoded images in [-1, 1], channels first, in; uint8 pixels, channels last, out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discl.kernels import reference
from discl.kernels.check import FLOATS, check
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


@Kernel
def _to_uint8(decoded, pixels, total, area, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # place in the output, [B, area, 3]
    inside = at < total
    pixel = at // 3
    image = pixel // area
    source = image * 3 * area + (at % 3) * area + pixel % area
    value = tl.load(decoded + source, inside).to(tl.float32) * 0.5 + 0.5
    # `not >= 0` catches a NaN as well, whose conversion to an integer is undefined.
    value = tl.where(value >= 0.0, value, 0.0)
    value = tl.where(value > 1.0, 1.0, value) * 255.0
    # Half to even as numpy's round: floor, then up for more than half, and for a half above an odd number.
    low = tl.floor(value)
    rest = value - low
    odd = low - 2.0 * tl.floor(low * 0.5)
    up = (rest > 0.5) | ((rest == 0.5) & (odd == 1.0))
    tl.store(pixels + at, tl.where(up, low + 1.0, low).to(tl.uint8), inside)


def to_uint8(decoded: torch.Tensor) -> torch.Tensor:
    """Turns the VAE decoder's output into pixels, as diffusers' image processor does in float32.

    =======  ============  =================  ====================
    decoded  [B, 3, H, W]  float32/bf16/fp16  any memory layout
    returns  [B, H, W, 3]  uint8              contiguous
    =======  ============  =================  ====================

    pixel = round_half_even(clamp(decoded / 2 + 0.5, 0, 1) * 255); NaN becomes 0.
    Raises ValueError where `decoded` is not as the table says.
    """
    check("decoded", decoded, ("B", 3, "H", "W"), FLOATS, decoded.device)
    if not uses_triton(decoded):
        return reference.to_uint8(decoded)
    batch, _, height, width = decoded.shape
    pixels = torch.empty(batch, height, width, 3, dtype=torch.uint8, device=decoded.device)
    grid = (-(-pixels.numel() // BLOCK),)
    arguments = (decoded.contiguous(), pixels, pixels.numel(), height * width)
    _to_uint8.launch(grid, *arguments, device=decoded.device, BLOCK=BLOCK)
    return pixels
