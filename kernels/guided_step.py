"""Latents, the network's output and one row of coefficients per slot in; the next latents and x0 out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from discl.kernels import reference
from discl.kernels.check import FLOATS, check
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


@Kernel
def _guided_step(
    x, cond, uncond, guidance, coef, history, noise, next_x, x0, row_size, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < row_size
    at = row * row_size + column
    c = coef + row * 10

    latent = tl.load(x + at, inside)
    out = tl.load(cond + at, inside).to(tl.float32)
    if uncond is not None:
        base = tl.load(uncond + at, inside).to(tl.float32)
        out = base + tl.load(guidance + row) * (out - base)

    clean = tl.load(c) * latent + tl.load(c + 1) * out
    bound = tl.load(c + 9)
    # Comparisons, not min and max: a NaN must come through, it is how the engine notices a broken row.
    clean = tl.where(clean > bound, bound, clean)
    clean = tl.where(clean < -bound, -bound, clean)
    eps = tl.load(c + 2) * latent + tl.load(c + 3) * out

    after = tl.load(c + 4) * latent + tl.load(c + 5) * clean + tl.load(c + 6) * eps
    if history is not None:
        after = after + tl.load(c + 7) * tl.load(history + at, inside)
    if noise is not None:
        after = after + tl.load(c + 8) * tl.load(noise + at, inside)
    tl.store(next_x + at, after, inside)
    tl.store(x0 + at, clean, inside)


def guided_step(
    x: torch.Tensor,
    cond: torch.Tensor,
    uncond: torch.Tensor | None,
    guidance: torch.Tensor,
    coef: torch.Tensor,
    history: torch.Tensor | None,
    noise: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One solver step with text guidance, for rows that stand at different timesteps.

    ========  ============  ===================  =======================================================
    x         [B, C, h, w]  float32              latents
    cond      [B, C, h, w]  float32/bf16/fp16    the network's output with the prompt
    uncond    [B, C, h, w]  float32/bf16/fp16    its output without, or None (then `guidance` is unused)
    guidance  [B]           float32              text guidance
    coef      [B, 10]       float32              one row of the solver's table per slot, column 9 >= 0
    history   [B, C, h, w]  float32              a multistep solver's memory, or None (counts as zero)
    noise     [B, C, h, w]  float32              or None (counts as zero)
    returns   2 x [B, C, h, w]  float32          next x, x0
    ========  ============  ===================  =======================================================

    out = uncond + guidance * (cond - uncond);  x0 = clamp(c0*x + c1*out, -c9, c9);  eps = c2*x + c3*out;
    next = c4*x + c5*x0 + c6*eps + c7*history + c8*noise.      (c9 = inf: x0 is not clamped)

    Sums run left to right in float32 without fused multiply-adds. Any memory layout is taken.
    Raises ValueError where a tensor is not as the table says.
    """
    _check(x, cond, uncond, guidance, coef, history, noise)
    if not uses_triton(x):
        return reference.guided_step(x, cond, uncond, guidance, coef, history, noise)
    inputs = [_contiguous(tensor) for tensor in (x, cond, uncond, guidance, coef, history, noise)]
    next_x, x0 = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
    row_size = math.prod(x.shape[1:])
    grid = (x.shape[0], -(-row_size // BLOCK))
    _guided_step.launch(grid, *inputs, next_x, x0, row_size, device=x.device, BLOCK=BLOCK)
    return next_x, x0


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _check(x, cond, uncond, guidance, coef, history, noise) -> None:
    check("x", x, ("B", "C", "h", "w"), (torch.float32,), x.device)
    check("cond", cond, x.shape, FLOATS, x.device)
    check("guidance", guidance, x.shape[:1], (torch.float32,), x.device)
    check("coef", coef, (x.shape[0], 10), (torch.float32,), x.device)
    if uncond is not None:
        check("uncond", uncond, x.shape, FLOATS, x.device)
    for name, tensor in (("history", history), ("noise", noise)):
        if tensor is not None:
            check(name, tensor, x.shape, (torch.float32,), x.device)
