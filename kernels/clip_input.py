"""uint8 images of one size in; what CLIP's image tower eats out: resized, cropped or padded, normalised.

Pillow's antialiased resize is two passes in fixed point, along x then y, with rounding to uint8 between. Both
paths do that arithmetic exactly, so the pixels equal those of open_clip's own preprocessing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discl.kernels import reference
from discl.kernels.check import FLOATS, check
from discl.kernels.clip_plan import BITS, ClipPlan
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


@Kernel
def _columns(images, start, weight, fill, wide, total, length, size, TAPS: tl.constexpr, BITS: tl.constexpr,
             BLOCK: tl.constexpr):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # place in `wide`, [B*H, size, 3]
    inside = at < total
    channel = at % 3
    column = (at // 3) % size
    row = at // 3 // size
    first = tl.load(start + column, inside, 0)
    value = (tl.load(fill + column, inside, 0) << BITS) + (1 << (BITS - 1))
    for tap in range(TAPS):
        x = first + tap
        pixel = tl.load(images + (row * length + x) * 3 + channel, inside & (x < length), 0)
        value += pixel.to(tl.int32) * tl.load(weight + column * TAPS + tap, inside, 0)
    value = tl.minimum(tl.maximum(value >> BITS, 0), 255)
    tl.store(wide + at, value.to(tl.uint8), inside)


@Kernel
def _rows(wide, start, weight, fill, mean, std, tower_input, total, length, height, width, TAPS: tl.constexpr,
          BITS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # place in `tower_input`, [B, 3, h, w]
    inside = at < total
    column = at % width
    row = (at // width) % height
    channel = (at // width // height) % 3
    image = at // width // height // 3
    first = tl.load(start + row, inside, 0)
    value = (tl.load(fill + row, inside, 0) << BITS) + (1 << (BITS - 1))
    for tap in range(TAPS):
        y = first + tap
        pixel = tl.load(
            wide + ((image * length + y) * width + column) * 3 + channel, inside & (y < length), 0
        )
        value += pixel.to(tl.int32) * tl.load(weight + row * TAPS + tap, inside, 0)
    value = tl.minimum(tl.maximum(value >> BITS, 0), 255).to(tl.float32)
    # Divisions rounded as IEEE says: Triton's plain ones are approximate, torch's are not.
    value = tl.div_rn(value, tl.full((BLOCK,), 255.0, tl.float32)) - tl.load(mean + channel)
    value = tl.div_rn(value, tl.load(std + channel))
    tl.store(tower_input + at, value.to(tower_input.dtype.element_ty), inside)


def clip_input(images: torch.Tensor, plan: ClipPlan, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """open_clip's evaluation preprocessing of RGB images, to the last bit of its pixels.

    =======  ============  =================  ==============================================
    images   [B, H, W, 3]  uint8              any memory layout; H, W as in the plan
    plan     ClipPlan                         made once per (H, W), on the images' device
    dtype                  float32/bf16/fp16  of the result
    returns  [B, 3, h, w]  dtype              h, w as in the plan, contiguous
    =======  ============  =================  ==============================================

    result = (crop_or_pad(round8(resize_y(round8(resize_x(images))))) / 255 - mean) / std.
    Raises ValueError where the images are not as the table says.
    """
    check("images", images, ("B", plan.rows.length, plan.columns.length, 3), (torch.uint8,), plan.mean.device)
    if dtype not in FLOATS:
        raise ValueError(f"dtype: expected float32/bfloat16/float16, given {dtype}")
    if not uses_triton(images):
        return reference.clip_input(images, plan, dtype)
    return _resize_rows(_resize_columns(images.contiguous(), plan), plan, dtype)


def _resize_columns(images: torch.Tensor, plan: ClipPlan) -> torch.Tensor:
    axis = plan.columns
    wide = torch.empty(*images.shape[:2], plan.width, 3, dtype=torch.uint8, device=images.device)
    arguments = (
        images,
        axis.start,
        axis.weight,
        axis.fill,
        wide,
        wide.numel(),
        axis.length,
        plan.width,
    )
    constants = {"TAPS": axis.weight.shape[1], "BITS": BITS, "BLOCK": BLOCK}
    _columns.launch((-(-wide.numel() // BLOCK),), *arguments, device=images.device, **constants)
    return wide


def _resize_rows(wide: torch.Tensor, plan: ClipPlan, dtype: torch.dtype) -> torch.Tensor:
    axis = plan.rows
    out = torch.empty(len(wide), 3, plan.height, plan.width, dtype=dtype, device=wide.device)
    taps = (axis.start, axis.weight, axis.fill)
    sizes = (out.numel(), axis.length, plan.height, plan.width)
    constants = {"TAPS": axis.weight.shape[1], "BITS": BITS, "BLOCK": BLOCK}
    grid = (-(-out.numel() // BLOCK),)
    _rows.launch(grid, wide, *taps, plan.mean, plan.std, out, *sizes, device=wide.device, **constants)
    return out
