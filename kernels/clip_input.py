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
from discl.kernels.clip_plan import Axis, ClipPlan
from discl.kernels.clip_tiles import BITS, Tiles
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024  # of the kernels that take one pass at a time
TILES, WARPS = 4, 4  # column tiles of a program and the warps that share them
# Four sums to bytes, saturated, in two instructions instead of eleven; the interpreter knows no assembly.
PACK = "{.reg .b32 high; cvt.pack.sat.s8.s32.b32 high, $4, $3, 0; cvt.pack.sat.s8.s32.b32 $0, $2, $1, high;}"
STAGES = 3  # chunks of image rows on their way to a program


@Kernel
def _fused(images, column_first, column_weight, column_bias, row_first, row_weight, row_bias, offset, factor,
           tower_input, groups, height, words, origin, chunks, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
           ALIGN: tl.constexpr, WHOLE: tl.constexpr, BITS: tl.constexpr, TILES: tl.constexpr, SPAN: tl.constexpr,
           CHUNK: tl.constexpr, ROWS: tl.constexpr, LINEAR: tl.constexpr, PACK: tl.constexpr):  # fmt: skip
    """Both passes as products of 8-bit integers, as `Tiles` says. A program walks down its tiles, chunk by chunk."""
    group = tl.program_id(0) % groups
    image = (tl.program_id(0) // groups).to(tl.int64)
    tile = group * TILES + tl.arange(0, TILES)
    n = tl.arange(0, 16)
    byte = tl.arange(0, SPAN)
    weight = column_weight + tile[:, None, None] * (3 * 16 * SPAN) + n[None, :, None] * SPAN + byte[None, None, :]
    low = tl.load(weight)
    middle = tl.load(weight + 16 * SPAN)
    high = tl.load(weight + 2 * 16 * SPAN)
    bias = tl.load(column_bias + tile[:, None] * 16 + n[None, :])[:, :, None]
    line = words * ALIGN  # bytes of an image row
    at = tl.load(column_first + tile)[:, None, None] * ALIGN + byte[None, None, :]
    step = tl.arange(0, CHUNK)
    window = step[None, :, None] * line + at
    pixels = images + (image * height + origin) * line

    channel = tl.minimum(n // 5, 2)
    add = tl.load(offset + channel)[None, :, None]
    times = tl.load(factor + channel)[None, :, None]
    # The result's places in memory, in one dimension: a warp stores runs of columns of one row.
    flat = tl.arange(0, ROWS * TILES * 16)
    r = flat // (TILES * 16)
    column = (group * TILES + flat // 16 % TILES) * 5 + flat % 16 % 5
    real = (flat % 16 < 15) & (column < WIDTH)
    result = tower_input + image * 3 * HEIGHT * WIDTH
    spread = (flat % 16 // 5 * HEIGHT + r) * WIDTH + column

    share = tl.arange(0, 2 * ROWS)[:, None] * CHUNK + step[None, :]
    begun = tl.full((TILES, 16, ROWS), 0, tl.int32)
    for chunk in range(chunks):
        if WHOLE:
            part = tl.load(pixels + window)
        else:
            there = (origin + chunk * CHUNK + step < height)[None, :, None] & (at < line)
            part = tl.load(pixels + window, there, 0)
        pixels += CHUNK * line
        signed = tl.permute(part.to(tl.int8, bitcast=True) ^ -128, (0, 2, 1))
        sums = tl.dot(high, signed, out_dtype=tl.int32)
        sums = tl.dot(middle, signed, sums * 256, out_dtype=tl.int32)
        sums = tl.dot(low, signed, sums * 256 + bias, out_dtype=tl.int32)
        if PACK is not None:
            resized = tl.inline_asm_elementwise(PACK, "=r,r,r,r,r", [sums >> BITS], tl.int8, True, 4)
        else:
            resized = tl.minimum(tl.maximum(sums >> BITS, -128), 127).to(tl.int8)

        shares = row_weight + share
        row_weight += 3 * 2 * ROWS * CHUNK
        digit = tl.permute(tl.load(shares + 2 * 2 * ROWS * CHUNK), (1, 0))[None, :, :]
        sums = tl.dot(resized, tl.broadcast_to(digit, (TILES, CHUNK, 2 * ROWS)), out_dtype=tl.int32)
        digit = tl.permute(tl.load(shares + 2 * ROWS * CHUNK), (1, 0))[None, :, :]
        sums = tl.dot(resized, tl.broadcast_to(digit, (TILES, CHUNK, 2 * ROWS)), sums * 256, out_dtype=tl.int32)
        digit = tl.permute(tl.load(shares), (1, 0))[None, :, :]
        sums = tl.dot(resized, tl.broadcast_to(digit, (TILES, CHUNK, 2 * ROWS)), sums * 256, out_dtype=tl.int32)
        ended, begins = tl.split(tl.reshape(sums, (TILES, 16, ROWS, 2)))
        ended += begun + tl.load(row_bias + chunk * ROWS + tl.arange(0, ROWS))[None, None, :]
        begun = begins
        value = tl.minimum(tl.maximum((ended >> BITS).to(tl.float32), 0.0), 255.0)
        if LINEAR:
            value = value * times + add
        else:  # IEEE's quotients by 255 and by std, in fewer steps than a division has
            value = value * 0.003921509 + value * 5.983839e-08 - add
            value = (value.to(tl.float64) * times).to(tl.float32)
        value = tl.permute(value.to(tower_input.dtype.element_ty), (2, 0, 1))
        first = tl.load(row_first + chunk)
        wanted = real & (r < tl.load(row_first + chunk + 1) - first)
        tl.store(result + first * WIDTH + spread, tl.reshape(value, (ROWS * TILES * 16,)), wanted)


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
    tiles = plan.tiles
    tower_input = torch.empty(len(images), 3, plan.height, plan.width, dtype=dtype, device=images.device)
    if tiles is not None:
        _launch_fused(images.contiguous(), plan, tiles, tower_input)
        return tower_input
    pixels = images.contiguous()
    for axis in plan.passes:
        pixels = _launch_resize(pixels, getattr(plan, axis), 1 if axis == "rows" else 2)
    sizes = (tower_input.numel(), plan.height * plan.width)
    arguments = (pixels, plan.mean, plan.std, tower_input, *sizes)
    _normalise.launch((-(-sizes[0] // BLOCK),), *arguments, device=images.device, BLOCK=BLOCK)
    return tower_input


def _launch_fused(images: torch.Tensor, plan: ClipPlan, tiles: Tiles, tower_input: torch.Tensor) -> None:
    groups = -(-tiles.count // TILES)
    line = plan.lines.get(tower_input.dtype)
    offset, factor = (plan.mean, plan.std.double().reciprocal()) if line is None else line
    tables = (tiles.column_first, tiles.column_weight, tiles.column_bias)
    tables += (tiles.row_first, tiles.row_weight, tiles.row_bias, offset, factor)
    words = images.shape[2] * 3 // tiles.align
    sizes = (groups, images.shape[1], words, tiles.origin, len(tiles.row_weight))
    constants = {"HEIGHT": plan.height, "WIDTH": plan.width}
    constants |= {"ALIGN": tiles.align, "WHOLE": tiles.whole, "BITS": BITS, "TILES": TILES, "SPAN": tiles.span}
    constants |= {"CHUNK": tiles.chunk, "ROWS": tiles.rows, "LINEAR": line is not None}
    constants |= {"PACK": PACK if images.is_cuda else None, "num_warps": WARPS, "num_stages": STAGES}
    _fused.launch((groups * len(images),), images, *tables, tower_input, *sizes, device=images.device, **constants)


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
