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
from discl.kernels.clip_tiles import BITS, Tiles, line
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024  # of the kernels that take one pass at a time
TILES = 4  # column tiles of a program, one a warp
# Four sums to bytes, saturated, in two instructions instead of eleven; the interpreter knows no assembly.
PACK = "{.reg .b32 high; cvt.pack.sat.s8.s32.b32 high, $4, $3, 0; cvt.pack.sat.s8.s32.b32 $0, $2, $1, high;}"


@Kernel
def _fused(images, column_first, column_weight, column_bias, row_first, row_weight, row_bias, offset, factor,
           tower_input, groups, height, vectors, origin, chunks, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
           ALIGN: tl.constexpr, WHOLE: tl.constexpr, BITS: tl.constexpr, TILES: tl.constexpr, SPAN: tl.constexpr,
           CHUNK: tl.constexpr, ROWS: tl.constexpr, BEGUN: tl.constexpr, LINEAR: tl.constexpr,
           PACK: tl.constexpr):  # fmt: skip
    """Both passes as products of 8-bit integers, as `Tiles` says. A program walks down its tiles, chunk by chunk.

    Every load is a matrix whose rows are eight lines of a tile, then those of the next tile: four lanes share a line,
    a warp has a tile. So a lane loads the very bytes that it multiplies if both factors name the bytes of a line in
    the order (ALIGN // 4, 4 lanes, 4), and nothing goes through shared memory but the result. Counted on sm_90,
    from 512 to 224: 0.24 M warp instructions an image where copies of tiles in shared memory took 0.31 M, and for 32
    rows of a tile 22 accesses of memory, shared or not, in place of 45.
    """
    group = tl.program_id(0) % groups
    image = (tl.program_id(0) // groups).to(tl.int64)
    WIDE: tl.constexpr = 4 * ALIGN
    PARTS: tl.constexpr = SPAN // WIDE
    across = tl.arange(0, WIDE)[None, :]

    at = tl.arange(0, PARTS * 2 * TILES * 8)
    n = at // (8 * TILES) % 2 * 8 + at % 8
    weight = ((group * TILES + at // 8 % TILES) * (3 * 16) + n) * SPAN + at // (16 * TILES) * WIDE
    weight = column_weight + tl.max_contiguous(weight[:, None] + across, (1, ALIGN))
    LINES: tl.constexpr = (PARTS, 2, TILES, 8, 4, ALIGN // 4, 4)
    low = tl.permute(tl.reshape(tl.load(weight), LINES), (2, 1, 3, 0, 5, 4, 6))
    middle = tl.permute(tl.reshape(tl.load(weight + 16 * SPAN), LINES), (2, 1, 3, 0, 5, 4, 6))
    high = tl.permute(tl.reshape(tl.load(weight + 32 * SPAN), LINES), (2, 1, 3, 0, 5, 4, 6))
    n = tl.arange(0, 16)
    bias = (group * TILES + tl.arange(0, TILES))[:, None] * 16 + n[None, :]
    bias = tl.load(column_bias + bias)[:, :, None]
    channel = tl.minimum(n // 2 % 4, 2)
    add = tl.load(offset + channel)[None, :, None]
    times = tl.load(factor + channel)[None, :, None]

    # Lines of pixels: of four lanes, each gets two rows of eight lines after the other's, as the second product wants.
    line = vectors * ALIGN
    at = tl.arange(0, PARTS * CHUNK * TILES)
    step = at % 8 // 2 * (CHUNK // 4) + at % 2 + at // (8 * TILES) % (CHUNK // 8) * 2
    byte = tl.load(column_first + group * TILES + at // 8 % TILES) * ALIGN + at // (CHUNK * TILES) * WIDE
    window = (step * line + byte)[:, None] + across
    within = byte[:, None] + across < line
    pixels = images + (image * height + origin) * line

    TOGETHER: tl.constexpr = min(64 // CHUNK, ROWS // 8)
    at = tl.arange(0, ROWS // TOGETHER * TILES)
    ending = (at // (8 * TILES) * 8 + at % 8)[:, None] * (TOGETHER * CHUNK) + tl.arange(0, TOGETHER * CHUNK)[None, :]
    TOGETHER_BEGUN: tl.constexpr = min(64 // CHUNK, BEGUN // 8)
    at = tl.arange(0, BEGUN // TOGETHER_BEGUN * TILES)
    beginning = (at // (8 * TILES) * 8 + at % 8)[:, None] * (TOGETHER_BEGUN * CHUNK) + ROWS * CHUNK
    beginning += tl.arange(0, TOGETHER_BEGUN * CHUNK)[None, :]

    row = tl.arange(0, ROWS)
    column = group * (TILES * 4) + tl.arange(0, TILES * 4)
    plane = tl.arange(0, 4)
    real = (plane < 3)[None, :, None] & (column < WIDTH)[None, None, :]
    spread = ((plane * HEIGHT)[None, :, None] + row[:, None, None]) * WIDTH + column[None, None, :]
    result = tower_input + image * 3 * HEIGHT * WIDTH

    first = tl.load(row_first)
    begun = tl.full((TILES, 16, BEGUN), 0, tl.int32)
    if WHOLE:
        part = tl.load(pixels + window)
    else:
        part = tl.load(pixels + window, (origin + step < height)[:, None] & within, 0)
    for chunk in range(chunks):
        signed = tl.reshape(part.to(tl.int8, bitcast=True) ^ -128, (PARTS, CHUNK // 8, TILES, 8, 4, ALIGN // 4, 4))
        signed = tl.reshape(tl.permute(signed, (2, 0, 5, 4, 6, 1, 3)), (TILES, SPAN, CHUNK))
        sums = tl.dot(tl.reshape(high, (TILES, 16, SPAN)), signed, out_dtype=tl.int32)
        sums = tl.dot(tl.reshape(middle, (TILES, 16, SPAN)), signed, sums * 256, out_dtype=tl.int32)
        sums = tl.dot(tl.reshape(low, (TILES, 16, SPAN)), signed, sums * 256 + bias, out_dtype=tl.int32)
        # The next chunk is on its way while this one's second product is made.
        if WHOLE:
            pixels += tl.where(chunk + 1 < chunks, CHUNK * line, 0)
            part = tl.load(pixels + window)
        else:
            pixels += CHUNK * line
            there = origin + (chunk + 1) * CHUNK + step < height
            part = tl.load(pixels + window, there[:, None] & within, 0)
        if PACK is not None:
            resized = tl.inline_asm_elementwise(PACK, "=r,r,r,r,r", [sums >> BITS], tl.int8, True, 4)
        else:
            resized = tl.minimum(tl.maximum(sums >> BITS, -128), 127).to(tl.int8)
        resized = tl.permute(tl.reshape(resized, (TILES, 16, CHUNK // 16, 2, 4, 2)), (0, 1, 2, 4, 3, 5))
        resized = tl.reshape(resized, (TILES, 16, CHUNK))

        first_rows = (tl.arange(0, ROWS // BEGUN) == 0)[None, None, :, None]
        start = tl.reshape(tl.where(first_rows, begun[:, :, None, :], 0), (TILES, 16, ROWS))
        start += tl.load(row_bias + chunk * ROWS + row)[None, None, :]
        ended = tl.full((TILES, 16, ROWS), 0, tl.int32)
        begun = tl.full((TILES, 16, BEGUN), 0, tl.int32)
        for lower in tl.static_range(3):
            digit = row_weight + (2 - lower) * (ROWS + BEGUN) * CHUNK
            share = tl.reshape(tl.load(digit + ending), (ROWS // TOGETHER // 8, TILES, 8, 4, TOGETHER, CHUNK // 16, 4))
            share = tl.reshape(tl.permute(share, (1, 5, 3, 6, 0, 4, 2)), (TILES, CHUNK, ROWS))
            ended = ended * 256 + start if lower == 2 else ended * 256
            ended = tl.dot(resized, share, ended, out_dtype=tl.int32)
            share = tl.load(digit + beginning)
            share = tl.reshape(share, (BEGUN // TOGETHER_BEGUN // 8, TILES, 8, 4, TOGETHER_BEGUN, CHUNK // 16, 4))
            share = tl.reshape(tl.permute(share, (1, 5, 3, 6, 0, 4, 2)), (TILES, CHUNK, BEGUN))
            begun = tl.dot(resized, share, begun * 256, out_dtype=tl.int32)
        row_weight += 3 * (ROWS + BEGUN) * CHUNK

        value = tl.minimum(tl.maximum((ended >> BITS).to(tl.float32), 0.0), 255.0)
        if LINEAR:
            value = value * times + add
        else:  # IEEE's quotients by 255 and by std, in fewer steps than a division has
            value = value * 0.003921509 + value * 5.983839e-08 - add
            value = (value.to(tl.float64) * times).to(tl.float32)
        value = tl.reshape(value.to(tower_input.dtype.element_ty), (TILES, 2, 4, 2, ROWS))
        value = tl.reshape(tl.permute(value, (4, 2, 0, 3, 1)), (ROWS, 4, TILES * 4))
        after = tl.load(row_first + chunk + 1)
        tl.store(result + first * WIDTH + spread, value, real & (row < after - first)[:, None, None])
        first = after


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
    normal = plan.lines.get(tower_input.dtype)
    offset, factor = (plan.mean, plan.std.double().reciprocal()) if normal is None else normal
    tables = (tiles.column_first, tiles.column_weight, tiles.column_bias)
    tables += (tiles.row_first, tiles.row_weight, tiles.row_bias, offset, factor)
    width = line(images.shape[2])
    if width != 3 * images.shape[2]:
        images = torch.nn.functional.pad(images.flatten(2), (0, width - 3 * images.shape[2]))
    sizes = (groups, images.shape[1], width // tiles.align, tiles.origin, len(tiles.row_weight))
    constants = {"HEIGHT": plan.height, "WIDTH": plan.width}
    constants |= {"ALIGN": tiles.align, "WHOLE": tiles.whole, "BITS": BITS, "TILES": TILES, "SPAN": tiles.span}
    constants |= {"CHUNK": tiles.chunk, "ROWS": tiles.rows, "BEGUN": tiles.begun, "LINEAR": normal is not None}
    constants |= {"PACK": PACK if images.is_cuda else None, "num_warps": TILES, "num_stages": 1}
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
