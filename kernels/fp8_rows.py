"""Activations in; e4m3 values with one scale a row out, of the rows themselves or of their GEGLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discl.kernels import reference
from discl.kernels.check import FLOATS, check
from discl.kernels.dispatch import Kernel, interpreting, stays_triton, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

LONGEST = 16384  # elements of a row that a program holds in registers: 64 a thread
PARTS = 8  # of a row at most
VECTOR = 8  # elements that a thread loads at once, 16 bytes of half precision


@Kernel
def _fp8_rows(x, values, scales, width, GATED: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """A program reads one row, once, in parts: few threads are idle where its length is no power of two."""
    row = tl.program_id(0).to(tl.int64)
    source = x + row * width * (2 if GATED else 1)
    column = tl.arange(0, BLOCK)
    parts = ()
    most = tl.full((BLOCK,), 0, tl.int32)
    for number in tl.static_range(PARTS):
        at = number * BLOCK + column
        part = tl.load(source + at, at < width, 0.0).to(tl.float32)
        if GATED:
            gate = tl.load(source + width + at, at < width, 0.0).to(tl.float32)
            # Half of erfc(|gate| / sqrt(2)), within 8e-8 (Abramowitz and Stegun, 7.1.26): half the instructions of erf.
            t = 1.0 / tl.fma(tl.abs(gate), 0.231641888, 1.0)
            tail = tl.fma(t, 0.5307027145, -0.7265760135)
            tail = tl.fma(tail, t, 0.7107068705)
            tail = tl.fma(tail, t, -0.142248368)
            tail = tl.fma(tail, t, 0.127414796) * t * tl.exp2(gate * gate * -0.7213475204444817)
            part = part * (gate * tl.where(gate < 0.0, tail, 1.0 - tail))
        parts = parts + (part,)  # noqa: RUF005  (Triton unpacks nothing)
        # Magnitudes are ordered as their bits are, and NaN comes last: a broken row gets a broken scale.
        most = tl.maximum(most, part.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    largest = tl.reduce(most, 0, tl.standard._elementwise_max).to(tl.float32, bitcast=True)
    scale = tl.div_rn(largest, 448.0)
    scale = tl.where(scale < 1.1754943508222875e-38, 1.1754943508222875e-38, scale)
    tl.store(scales + row, scale)
    factor = tl.div_rn(1.0, scale)
    for number in tl.static_range(PARTS):
        at = number * BLOCK + column
        tl.store(values + row * width + at, (parts[number] * factor).to(values.dtype.element_ty), at < width)


def fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in float8, each with a scale of its own: x ~ values * scale.

    =======  ======  =================  ===========================
    x        [N, K]  float32/bf16/fp16  any memory layout
    returns  [N, K]  e4m3               contiguous
             [N, 1]  float32            max(|row|) / 448, never zero
    =======  ======  =================  ===========================

    values = round(x * (1 / scale)), half to even. A row that holds NaN becomes NaN; one that holds an infinity has an
    infinite scale, and NaN there. Raises ValueError where `x` is not as the table says.
    """
    check("x", x, ("N", "K"), FLOATS, x.device)
    fits = x.shape[1] <= LONGEST
    return _launch(x, x.shape[1], gated=False) if fits and uses_triton(x) else reference.fp8_rows(x)


def geglu_fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The GEGLU of diffusers' feed-forward layers, in float8: rows of hidden * gelu(gate), where x is [hidden, gate].

    =======  =======  =================  ===============================
    x        [N, 2K]  float32/bf16/fp16  any memory layout
    returns  [N, K]   e4m3               contiguous
             [N, 1]   float32            as `fp8_rows` of the exact GEGLU
    =======  =======  =================  ===============================

    gelu(g) = g * (1 + erf(g / sqrt(2))) / 2 in float32, within 2e-7 * |g|. In compiled code, too, it is this kernel:
    inductor reads such rows twice and evaluates erf both times. Raises ValueError where `x` is not as the table says.
    """
    check("x", x, ("N", "2K"), FLOATS, x.device)
    if x.shape[1] % 2:
        raise ValueError(f"x: expected rows of an even length, given {list(x.shape)}")
    fits = x.shape[1] <= 2 * LONGEST
    return _geglu_fp8_rows(x) if fits and stays_triton(x) else reference.geglu_fp8_rows(x)


@torch.library.custom_op("discl::geglu_fp8_rows", mutates_args=(), schema="(Tensor x) -> (Tensor, Tensor)")
def _geglu_fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One node of a compiled graph."""
    return _launch(x, x.shape[1] // 2, gated=True)


@_geglu_fp8_rows.register_fake
def _(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _results(x, x.shape[1] // 2, torch.float8_e4m3fn)


def _results(x: torch.Tensor, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(len(x), width, dtype=dtype), x.new_empty(len(x), 1, dtype=torch.float32)


def _launch(x: torch.Tensor, width: int, gated: bool) -> tuple[torch.Tensor, torch.Tensor]:
    # The interpreter's own cast to e4m3 truncates and loses NaN: there the kernel leaves the cast to torch.
    values, scales = _results(x, width, torch.float32 if interpreting() else torch.float8_e4m3fn)
    block = max(VECTOR * 32, (1 << (width - 1).bit_length()) // PARTS)
    constants = {"PARTS": -(-width // block), "BLOCK": block, "num_warps": block // (VECTOR * 32)}
    _fp8_rows.launch((len(x),), x.contiguous(), values, scales, width, device=x.device, GATED=gated, **constants)
    return values.to(torch.float8_e4m3fn), scales
