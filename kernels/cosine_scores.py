"""Image embeddings and class texts in; text score, image score, margin and the keep decision out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discl.kernels import reference
from discl.kernels.check import FLOATS, check
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl


@Kernel
def _cosine_scores(embeddings, texts, class_ids, references, text_score, image_score, margin, width,
                   CLASSES: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    own = tl.load(class_ids + row)
    image = tl.load(embeddings + row * width + column, inside, 0.0).to(tl.float32)
    # Not tl.sum: it cannot be interpreted in a process that imported Triton to compile.
    image = image / tl.maximum(tl.sqrt(tl.reduce(image * image, 0, tl.standard._sum_combine)), 1e-12)

    score = 0.0
    rival = -1.0
    for other in range(CLASSES):
        text = tl.load(texts + other * width + column, inside, 0.0).to(tl.float32)
        text = text / tl.maximum(tl.sqrt(tl.reduce(text * text, 0, tl.standard._sum_combine)), 1e-12)
        cosine = tl.reduce(image * text, 0, tl.standard._sum_combine)
        score = tl.where(other == own, cosine, score)
        rival = tl.where(other == own, rival, tl.maximum(rival, cosine))
    tl.store(text_score + row, score)
    tl.store(margin + row, score - rival)

    if references is not None:
        source = tl.load(references + row * width + column, inside, 0.0).to(tl.float32)
        source = source / tl.maximum(tl.sqrt(tl.reduce(source * source, 0, tl.standard._sum_combine)), 1e-12)
        tl.store(image_score + row, tl.reduce(image * source, 0, tl.standard._sum_combine))


def cosine_scores(
    embeddings: torch.Tensor,
    texts: torch.Tensor,
    class_ids: torch.Tensor,
    references: torch.Tensor | None,
    threshold: float,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """CLIP's judgement of N images: cosines in float32, each row by itself (`paper.md` section 2).

    ==========  ======  =================  ==========================================================
    embeddings  [N, D]  float32/bf16/fp16  of the images; no vector needs to be normalised
    texts       [C, D]  float32/bf16/fp16  one per class, C >= 1
    class_ids   [N]     int64              in [0, C); not checked, that would wait for the device
    references  [N, D]  float32/bf16/fp16  of the sources, or None
    threshold   float                      least text score to keep
    returns     [N]     float32            text_score = cos(embedding, texts[class_id])
                [N]     float32            image_score = cos(embedding, reference), None without references
                [N]     float32            margin = text_score - the best score of another class
                [N]     bool               keep = text_score >= threshold (False for NaN)
    ==========  ======  =================  ==========================================================

    Without another class (C = 1) the rival counts as -1, the lowest cosine, so the margin stays a number.
    Raises ValueError where a tensor is not as the table says.
    """
    _check(embeddings, texts, class_ids, references)
    if not uses_triton(embeddings):
        return reference.cosine_scores(embeddings, texts, class_ids, references, threshold)
    count, width = embeddings.shape
    text_score, image_score, margin = embeddings.new_empty(3, count, dtype=torch.float32)
    inputs = (embeddings.contiguous(), texts.contiguous(), class_ids.contiguous())
    references = None if references is None else references.contiguous()
    arguments = (*inputs, references, text_score, image_score, margin, width)
    constants = {"CLASSES": len(texts), "BLOCK": 1 << max(width - 1, 0).bit_length()}
    _cosine_scores.launch((count,), *arguments, device=embeddings.device, **constants)
    return text_score, None if references is None else image_score, margin, text_score >= threshold


def _check(embeddings, texts, class_ids, references) -> None:
    device = embeddings.device
    check("embeddings", embeddings, ("N", "D"), FLOATS, device)
    count, width = embeddings.shape
    check("texts", texts, ("C", width), FLOATS, device)
    check("class_ids", class_ids, (count,), (torch.int64,), device)
    if references is not None:
        check("references", references, (count, width), FLOATS, device)
    if not len(texts):
        raise ValueError("texts: expected at least one class, given none")
