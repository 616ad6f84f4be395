"""The torch twins of the kernels: same names, same tensors in and out, no Triton.

They are the CPU path, the tests' judges and the benchmarks' baseline. What the launcher of the same name says
about shapes, dtypes and formulas holds here; the checks are the launcher's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import gelu, normalize

if TYPE_CHECKING:
    from discl.kernels.clip_input import ClipPlan
    from discl.kernels.score_rows import RowScores

COSINES = 1 << 24  # in memory at a time


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
            pixels = pixels @ plan.columns.matrix().T + plan.columns.fill
        else:
            pixels = plan.rows.matrix() @ pixels + plan.rows.fill[:, None]
        pixels = pixels.add(0.5).floor().clamp(0, 255)
    mean, std = plan.mean.view(3, 1, 1), plan.std.view(3, 1, 1)
    # A tensor on the device: torch divides there by a plain number as by its reciprocal, which rounds twice.
    return ((pixels.float() / mean.new_tensor(255.0) - mean) / std).to(dtype)


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


def score_rows(
    embeddings: torch.Tensor,
    texts: torch.Tensor,
    class_ids: torch.Tensor,
    levels: torch.Tensor,
    references: torch.Tensor | None,
    threshold: float,
    level_count: int,
) -> RowScores:
    """See discl.kernels.score_rows. A few million cosines are in memory at a time."""
    from discl.kernels.score_rows import BINS, RowScores

    lines = normalize(texts.float(), dim=-1)
    count, classes = len(embeddings), len(lines)
    text_score, margin = embeddings.new_empty(2, count, dtype=torch.float32)
    rank = torch.empty(count, dtype=torch.int32, device=embeddings.device)
    image_score = None if references is None else torch.empty_like(text_score)
    step = max(1, COSINES // classes)
    for start in range(0, count, step):
        part = slice(start, start + step)
        rows, own = normalize(embeddings[part].float(), dim=-1), class_ids[part, None]
        cosines = rows @ lines.T
        score = (rows * lines[class_ids[part]]).sum(-1)
        others = cosines.scatter_(1, own, -1.0)
        text_score[part], margin[part] = score, score - others.amax(1)
        rank[part] = 1 + (others > score[:, None]).sum(1, dtype=torch.int32)
        if image_score is not None and references is not None:
            image_score[part] = (rows * normalize(references[part].float(), dim=-1)).sum(-1)
    keep = text_score >= threshold
    cell = class_ids * level_count + levels
    counts = torch.bincount(cell[keep], minlength=classes * level_count).int().view(classes, level_count)
    place = ((text_score + 1) * (BINS / 2)).floor().clamp(0, BINS - 1)
    real = ~place.isnan()
    bins = torch.bincount(cell[real] * BINS + place[real].long(), minlength=classes * level_count * BINS)
    histogram = bins.int().view(classes, level_count, BINS)
    return RowScores(text_score, image_score, margin, rank, keep, keep.nonzero()[:, 0], counts, histogram)


def fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See discl.kernels.fp8_rows."""
    rows = x.float()
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = (rows.abs().amax(1, keepdim=True) / largest).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows * scale.reciprocal()).to(torch.float8_e4m3fn).contiguous(), scale


def geglu_fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See discl.kernels.geglu_fp8_rows."""
    hidden, gate = x.float().chunk(2, 1)
    return fp8_rows(hidden * gelu(gate))
