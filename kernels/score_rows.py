"""Millions of image embeddings and all class texts in; scores, ranks, accepted rows and counts out, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from discl.kernels import reference
from discl.kernels.check import FLOATS, check
from discl.kernels.dispatch import Kernel, uses_triton

if TYPE_CHECKING:
    import triton.language as tl

BINS = 64  # of the histograms, evenly over cosines from -1 to 1
ONE_TILE = 64  # so many texts at most, and one tile holds them all
# Of a tile and of the program that takes it, for as many texts as one tile holds, and for more.
FEW = {"ROWS": 64, "WIDTH": 128, "num_warps": 4, "num_stages": 3}
MANY = {"ROWS": 128, "WIDTH": 64, "num_warps": 8, "num_stages": 3}
TEXTS = 256
COPIES, CELLS = 32, 1 << 16  # of the tally: copies at most, and cells in all of them
BLOCK = 2048  # rows that one program compacts
HALVES = {False: (torch.float16,), True: (torch.float16, torch.bfloat16)}  # on CUDA?


class RowScores(NamedTuple):
    """text_score, image_score (None without references), margin: float32 [N]. rank: int32 [N], 1 + classes with a
    higher cosine. keep: bool [N]. accepted: int64 [K], the kept rows, rising. counts: int32 [C, L], kept rows by class
    and level. histogram: int32 [C, L, 64], all rows by text score."""

    text_score: torch.Tensor
    image_score: torch.Tensor | None
    margin: torch.Tensor
    rank: torch.Tensor
    keep: torch.Tensor
    accepted: torch.Tensor
    counts: torch.Tensor
    histogram: torch.Tensor


@Kernel
def _score_rows(embeddings, texts, text_norm, class_ids, levels, references, text_score, image_score, margin, rank,
                keep, kept_of_tile, tally, threshold, count, classes, width, level_count, copies, BINS: tl.constexpr,
                HALF: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr,
                WIDTH: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """ONE: one tile holds all texts, so one loop over the width reads every embedding once."""
    r = tl.arange(0, ROWS)
    row = tl.program_id(0).to(tl.int64) * ROWS + r
    inside = row < count
    own = tl.load(class_ids + row, inside, 0).to(tl.int32)
    column = tl.arange(0, WIDTH)
    begin, lines = tl.program_id(0).to(tl.int64) * ROWS * width, r[:, None] * width
    images = embeddings + begin + lines
    other = tl.arange(0, TEXTS)
    dots = tl.full((ROWS, TEXTS), 0, tl.float32)
    square = tl.full((ROWS,), 0, tl.float32)
    own_dot = tl.full((ROWS,), 0, tl.float32)
    source_square = tl.full((ROWS,), 0, tl.float32)
    source_dot = tl.full((ROWS,), 0, tl.float32)
    for start in tl.range(0, width, WIDTH, num_stages=STAGES):
        at = start + column
        there = inside[:, None] & (at < width)[None, :]
        image = tl.load(images + at[None, :], there, 0.0)
        exact = image.to(tl.float32)
        # Not tl.sum: it cannot be interpreted in a process that imported Triton to compile.
        square += tl.reduce(exact * exact, 1, tl.standard._sum_combine)
        if references is not None:
            source = tl.load(references + begin + lines + at[None, :], there, 0.0).to(tl.float32)
            source_square += tl.reduce(source * source, 1, tl.standard._sum_combine)
            source_dot += tl.reduce(exact * source, 1, tl.standard._sum_combine)
        if ONE:
            named = (other < classes)[:, None] & (at < width)[None, :]
            text = tl.load(texts + other[:, None] * width + at[None, :], named, 0.0)
            if not HALF:  # two fp16 or bf16 tiles go to the tensor cores as they are
                image = exact
                text = text.to(tl.float32)
            dots = tl.dot(image, tl.trans(text), dots, input_precision="ieee")
        else:
            text = tl.load(texts + own.to(tl.int64)[:, None] * width + at[None, :], there, 0.0).to(tl.float32)
            own_dot += tl.reduce(exact * text, 1, tl.standard._sum_combine)
    scale = 1.0 / tl.maximum(tl.sqrt(square), 1e-12)
    if references is not None:
        tl.store(image_score + row, source_dot * scale / tl.maximum(tl.sqrt(source_square), 1e-12), inside)

    rival = tl.full((ROWS,), -1.0, tl.float32)
    higher = tl.full((ROWS,), 0, tl.int32)
    if ONE:
        factor = 1.0 / tl.maximum(tl.load(text_norm + other, other < classes, 1.0), 1e-12)
        cosine = dots * scale[:, None] * factor[None, :]
        mine = other[None, :] == own[:, None]
        score = tl.reduce(tl.where(mine, cosine, 0.0), 1, tl.standard._sum_combine)
        cosine = tl.where(mine | (other >= classes)[None, :], -1.0, cosine)
        rival = tl.maximum(rival, tl.reduce(cosine, 1, tl.standard._elementwise_max))
        higher += tl.reduce((cosine > score[:, None]).to(tl.int32), 1, tl.standard._sum_combine)
    else:
        score = own_dot * scale / tl.maximum(tl.load(text_norm + own), 1e-12)
        for first in range(0, classes, TEXTS):
            other = first + tl.arange(0, TEXTS)
            rivals = texts + other[:, None].to(tl.int64) * width
            dots = tl.full((ROWS, TEXTS), 0, tl.float32)
            for start in range(0, width, WIDTH):
                at = start + column
                image = tl.load(images + at[None, :], inside[:, None] & (at < width)[None, :], 0.0)
                text = tl.load(rivals + at[None, :], (other < classes)[:, None] & (at < width)[None, :], 0.0)
                if not HALF:
                    image = image.to(tl.float32)
                    text = text.to(tl.float32)
                dots = tl.dot(image, tl.trans(text), dots, input_precision="ieee")
            factor = 1.0 / tl.maximum(tl.load(text_norm + other, other < classes, 1.0), 1e-12)
            cosine = dots * scale[:, None] * factor[None, :]
            mine = other[None, :] == own[:, None]
            cosine = tl.where(mine | (other >= classes)[None, :], -1.0, cosine)
            rival = tl.maximum(rival, tl.reduce(cosine, 1, tl.standard._elementwise_max))
            higher += tl.reduce((cosine > score[:, None]).to(tl.int32), 1, tl.standard._sum_combine)

    kept = inside & (score >= threshold)
    tl.store(text_score + row, score, inside)
    tl.store(margin + row, score - rival, inside)
    tl.store(rank + row, higher + 1, inside)
    tl.store(keep + row, kept.to(tl.int8), inside)
    tl.store(kept_of_tile + tl.program_id(0), tl.reduce(kept.to(tl.int32), 0, tl.standard._sum_combine))
    # One addition a row: 1 to its bin, and 2**32 if it is kept. Neighbours add to different copies of the bins.
    cell = (r % copies).to(tl.int64) * classes * level_count + own * level_count + tl.load(levels + row, inside, 0)
    bin = tl.minimum(tl.maximum(tl.floor((score + 1) * (BINS / 2)), 0.0), BINS - 1.0).to(tl.int32)
    one = tl.where(kept, (1 << 32) + 1, 1).to(tl.int64)
    tl.atomic_add(tally + cell * BINS + bin, one, inside & (score == score), sem="relaxed")


@Kernel
def _compact(keep, before, accepted, count, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """Kept rows of TILES tiles to their place; `before` is how many the tiles up to one, it included, kept."""
    block = tl.program_id(0)
    row = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = tl.load(keep + row, row < count, 0).to(tl.int32)
    place = tl.associative_scan(kept, 0, tl.standard._sum_combine) - 1
    place += tl.load(before + block * TILES - 1, block > 0, 0)
    tl.store(accepted + place, row, kept > 0)


def score_rows(
    embeddings: torch.Tensor,
    texts: torch.Tensor,
    class_ids: torch.Tensor,
    levels: torch.Tensor,
    references: torch.Tensor | None,
    threshold: float,
    level_count: int,
) -> RowScores:
    """CLIP's judgement of N images against all C classes (`paper.md` section 2), sums in float32.

    ===========  ======  =================  =========================================================
    embeddings   [N, D]  float32/bf16/fp16  of the images; no vector needs to be normalised
    texts        [C, D]  float32/bf16/fp16  one per class, C >= 1
    class_ids    [N]     int64              in [0, C); not checked, that would wait for the device
    levels       [N]     int64              in [0, level_count); not checked either
    references   [N, D]  float32/bf16/fp16  of the sources, or None
    threshold    float                      least text score to keep
    returns      RowScores
    ===========  ======  =================  =========================================================

    text_score = cos(embedding, texts[class_id]), margin = text_score - the best other class's (-1 without one), keep =
    text_score >= threshold in float32. Unlike `cosine_scores` it multiplies matrices, so last bits depend on N.
    Raises ValueError where a tensor is not as the table says.
    """
    _check(embeddings, texts, class_ids, levels, references, level_count)
    if not uses_triton(embeddings):
        return reference.score_rows(embeddings, texts, class_ids, levels, references, threshold, level_count)
    (count, width), classes, device = embeddings.shape, len(texts), embeddings.device
    one = classes <= ONE_TILE
    tile = FEW | {"TEXTS": max(16, 1 << (classes - 1).bit_length())} if one else MANY | {"TEXTS": TEXTS}
    tiles = -(-count // tile["ROWS"])
    text_score, image_score, margin = embeddings.new_empty(3, count, dtype=torch.float32)
    rank = torch.empty(count, dtype=torch.int32, device=device)
    keep = torch.empty(count, dtype=torch.int8, device=device)
    kept_of_tile = torch.empty(tiles, dtype=torch.int32, device=device)
    copies = max(1, min(COPIES, CELLS // (classes * level_count)))
    tally = torch.zeros(copies, classes, level_count, BINS, dtype=torch.int64, device=device)
    text_norm = torch.linalg.vector_norm(texts, dim=1, dtype=torch.float32)
    # In the interpreter a product of bfloat16 tiles is one of their bits.
    halves = embeddings.dtype == texts.dtype and texts.dtype in HALVES[texts.is_cuda]
    inputs = (embeddings.contiguous(), texts.contiguous(), text_norm, class_ids.contiguous(), levels.contiguous())
    _score_rows.launch(
        (tiles,), *inputs, None if references is None else references.contiguous(), text_score, image_score, margin,
        rank, keep, kept_of_tile, tally, threshold, count, classes, width, level_count, copies,
        device=device, BINS=BINS, HALF=halves, ONE=one, STAGES=tile["num_stages"], **tile,
    )  # fmt: skip
    before, accepted = kept_of_tile.cumsum(0), torch.empty(count, dtype=torch.int64, device=device)
    block = {"TILES": BLOCK // tile["ROWS"], "BLOCK": BLOCK}
    _compact.launch((-(-count // BLOCK),), keep, before, accepted, count, device=device, **block)
    total = tally.sum(0)
    counts, histogram = (total >> 32).sum(-1, dtype=torch.int32), total.bitwise_and(0xFFFFFFFF).int()
    accepted = accepted[: int(before[-1]) if tiles else 0]  # the one wait for the device
    image_scores = None if references is None else image_score
    return RowScores(text_score, image_scores, margin, rank, keep.view(torch.bool), accepted, counts, histogram)


def _check(embeddings, texts, class_ids, levels, references, level_count: int) -> None:
    device = embeddings.device
    check("embeddings", embeddings, ("N", "D"), FLOATS, device)
    count, width = embeddings.shape
    check("texts", texts, ("C", width), FLOATS, device)
    check("class_ids", class_ids, (count,), (torch.int64,), device)
    check("levels", levels, (count,), (torch.int64,), device)
    if references is not None:
        check("references", references, (count, width), FLOATS, device)
    if not len(texts) or level_count < 1:
        raise ValueError(f"texts, level_count: expected at least one of each, given {len(texts)} and {level_count}")
