"""uint8 images of one size in; what CLIP's image tower eats out: resized, cropped or padded, normalised.

Pillow's antialiased resize is two passes in fixed point, one per axis, with rounding to uint8 between. The kernel and
its reference do that arithmetic exactly, and a CPU calls Pillow itself (`clip_pillow`), so the pixels equal those of
open_clip's own preprocessing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from discl.kernels import clip_pillow, reference
from discl.kernels.check import FLOATS, check
from discl.kernels.clip_plan import BITS, Axis, ClipPlan
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


@Kernel
def _resize(pixels, start, weight, fill, resized, total, length, size, inner, TAPS: tl.constexpr,
            BITS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # place in [outer, size, inner]
    inside = at < total
    within = at % inner
    output = (at // inner) % size
    outer = at // inner // size
    first = tl.load(start + output, inside, 0)
    value = (tl.load(fill + output, inside, 0) << BITS) + (1 << (BITS - 1))
    for tap in range(TAPS):
        place = first + tap
        pixel = tl.load(pixels + (outer * length + place) * inner + within, inside & (place < length), 0)
        value += pixel.to(tl.int32) * tl.load(weight + output * TAPS + tap, inside, 0)
    value = tl.minimum(tl.maximum(value >> BITS, 0), 255)
    tl.store(resized + at, value.to(tl.uint8), inside)


@Kernel
def _normalise(pixels, mean, std, tower_input, total, area, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # place in [B, 3, area]
    inside = at < total
    channel = (at // area) % 3
    image = at // area // 3
    value = tl.load(pixels + (image * area + at % area) * 3 + channel, inside, 0).to(tl.float32)
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

    result = (crop_or_pad(round8(resize(round8(resize(images))))) / 255 - mean) / std, one resize per axis.
    Raises ValueError where the images are not as the table says.
    """
    check("images", images, ("B", plan.rows.length, plan.columns.length, 3), (torch.uint8,), plan.mean.device)
    if dtype not in FLOATS:
        raise ValueError(f"dtype: expected float32/bfloat16/float16, given {dtype}")
    if not uses_triton(images):
        eager = images.device.type == "cpu" and not torch.compiler.is_compiling()
        return (clip_pillow if eager else reference).clip_input(images, plan, dtype)
    pixels = images.contiguous()
    for axis in plan.passes:
        pixels = _launch_resize(pixels, getattr(plan, axis), 1 if axis == "rows" else 2)
    tower_input = torch.empty(len(images), 3, plan.height, plan.width, dtype=dtype, device=images.device)
    sizes = (tower_input.numel(), plan.height * plan.width)
    arguments = (pixels, plan.mean, plan.std, tower_input, *sizes)
    _normalise.launch((-(-sizes[0] // BLOCK),), *arguments, device=images.device, BLOCK=BLOCK)
    return tower_input


def _launch_resize(pixels: torch.Tensor, axis: Axis, dimension: int) -> torch.Tensor:
    shape = list(pixels.shape)
    shape[dimension] = len(axis.start)
    resized = pixels.new_empty(shape)
    inner = math.prod(shape[dimension + 1 :])
    arguments = (pixels, axis.start, axis.weight, axis.fill, resized, resized.numel(), axis.length)
    constants = {"TAPS": axis.weight.shape[1], "BITS": BITS, "BLOCK": BLOCK}
    grid = (-(-resized.numel() // BLOCK),)
    _resize.launch(grid, *arguments, len(axis.start), inner, device=pixels.device, **constants)
    return resized
