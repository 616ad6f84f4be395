"""The torch twins of the kernels: same names, same tensors in and out, no Triton.

They are the CPU path, the tests' judges and the benchmarks' baseline. What the launcher of the same name says
about shapes, dtypes and formulas holds here; the checks are the launcher's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from discl.kernels.clip_input import ClipPlan


def guided_step(
    x: torch.Tensor,
    cond: torch.Tensor,
    uncond: torch.Tensor | None,
    guidance: torch.Tensor,
    coef: torch.Tensor,
    history: torch.Tensor | None,
    noise: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See discl.kernels.guided_step."""
    c = coef.view(-1, 10, 1, 1, 1).unbind(1)
    out = cond.float()
    if uncond is not None:
        base = uncond.float()
        out = base + guidance.view(-1, 1, 1, 1) * (out - base)
    x0 = torch.clamp(c[0] * x + c[1] * out, -c[9], c[9])
    next_x = c[4] * x + c[5] * x0 + c[6] * (c[2] * x + c[3] * out)
    if history is not None:
        next_x = next_x + c[7] * history
    if noise is not None:
        next_x = next_x + c[8] * noise
    return next_x, x0


def to_uint8(decoded: torch.Tensor) -> torch.Tensor:
    """See discl.kernels.to_uint8."""
    scaled = decoded.float().div(2).add(0.5).nan_to_num(nan=0.0).clamp(0, 1).mul(255)
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def clip_input(images: torch.Tensor, plan: ClipPlan, dtype: torch.dtype) -> torch.Tensor:
    """See discl.kernels.clip_input. Two matrix products in float64, where Pillow's integers are exact."""
    pixels = images.permute(0, 3, 1, 2).double()
    for axis in plan.passes:
        if axis == "columns":
            pixels = pixels @ plan.columns.matrix.T + plan.columns.fill
        else:
            pixels = plan.rows.matrix @ pixels + plan.rows.fill[:, None]
        pixels = pixels.add(0.5).floor().clamp(0, 255)
    mean, std = plan.mean.view(3, 1, 1), plan.std.view(3, 1, 1)
    return ((pixels.float() / 255 - mean) / std).to(dtype)


def cosine_scores(
    embeddings: torch.Tensor,
    texts: torch.Tensor,
    class_ids: torch.Tensor,
    references: torch.Tensor | None,
    threshold: float,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """See discl.kernels.cosine_scores."""
    rows, lines = normalize(embeddings.float(), dim=-1), normalize(texts.float(), dim=-1)
    # Row by row: the last bits of a matrix product depend on how many rows there are.
    cosines = rows.new_empty(len(rows), len(lines))
    for cosine, row in zip(cosines, rows, strict=True):
        torch.sum(lines * row, -1, out=cosine)
    own = class_ids[:, None]
    text_score = cosines.gather(1, own)[:, 0]
    margin = text_score - cosines.scatter(1, own, -1.0).amax(1)
    image_score = None if references is None else (rows * normalize(references.float(), dim=-1)).sum(-1)
    return text_score, image_score, margin, text_score >= threshold
