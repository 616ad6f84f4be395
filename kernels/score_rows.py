"""Millions of image embeddings and all class texts in; scores, ranks, accepted rows and counts out, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from discl.kernels import reference
from discl.kernels.check import FLOATS, check
from discl.kernels.dispatch import Kernel, uses_triton
from discl.kernels.score_tiles import few_texts, many_texts

if TYPE_CHECKING:
    import triton.language as tl

BINS = 64  # of the histograms, evenly over cosines from -1 to 1
ONE_TILE = 64  # so many texts at most, and one tile holds them all
# Of a tile of more texts and of the program that takes it, by whether tensor cores multiply it.
MANY = {
    True: {"ROWS": 128, "TEXTS": 256, "WIDTH": 64, "num_warps": 8, "num_stages": 3},
    False: {"ROWS": 128, "TEXTS": 128, "WIDTH": 16, "num_warps": 8, "num_stages": 3},
}
COPIES, CELLS = 32, 1 << 16  # of the tally: copies at most, and cells in all of them
BLOCK = 4096  # rows that one program compacts
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
                keep, kept_of_block, tally, threshold, count, classes, level_count, copies, width: tl.constexpr,
                BINS: tl.constexpr, BLOCK: tl.constexpr, ONE: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr,
                TEXTS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    r = tl.arange(0, ROWS)
    begin = tl.program_id(0).to(tl.int64) * ROWS
    row = begin + r
    inside = row < count
    # What comes from memory is asked for at the start, though only the end needs it.
    own = tl.load(class_ids + row, inside, 0).to(tl.int32)
    level = tl.load(levels + row, inside, 0).to(tl.int32)
    last = tl.minimum(count - begin, ROWS).to(tl.int32) - 1
    images = embeddings + begin * width
    sources = None if references is None else references + begin * width
    if ONE:
        score, rival, higher, likeness = few_texts(
            images, sources, texts, text_norm, own, last, classes, width, HALF, ROWS, TEXTS, WIDTH
        )
    else:
        score, rival, higher, likeness = many_texts(
            images, sources, texts, text_norm, own, last, classes, width, HALF, ROWS, TEXTS, WIDTH, STAGES
        )

    kept = inside & (score >= threshold)
    if references is not None:
        tl.store(image_score + row, likeness, inside)
    tl.store(text_score + row, score, inside)
    tl.store(margin + row, score - rival, inside)
    tl.store(rank + row, higher + 1, inside)
    tl.store(keep + row, kept.to(tl.int8), inside)
    kept_here = tl.reduce(kept.to(tl.int32), 0, tl.standard._sum_combine)
    tl.atomic_add(kept_of_block + begin // BLOCK, kept_here.to(tl.int64), sem="relaxed")
    # One addition a row: 1 to its bin, and 2**32 if it is kept. Neighbours add to different copies of the bins.
    cell = (r % copies).to(tl.int64) * classes * level_count + own * level_count + level
    bin = tl.minimum(tl.maximum(tl.floor((score + 1) * (BINS / 2)), 0.0), BINS - 1.0).to(tl.int32)
    one = tl.where(kept, (1 << 32) + 1, 1).to(tl.int64)
    tl.atomic_add(tally + cell * BINS + bin, one, inside & (score == score), sem="relaxed")


@Kernel
def _compact(keep, kept_of_block, accepted, kept, count, BLOCK: tl.constexpr):
    """A block's kept rows to their place behind those of the blocks before it; the last block knows how many in all."""
    block = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    row = block.to(tl.int64) * BLOCK + at
    here = tl.load(keep + row, row < count, 0).to(tl.int32)
    before = tl.full((BLOCK,), 0, tl.int64)
    for other in range(0, block, BLOCK):
        before += tl.load(kept_of_block + other + at, other + at < block, 0)
    first = tl.reduce(before, 0, tl.standard._sum_combine)
    tl.store(accepted + first + tl.associative_scan(here, 0, tl.standard._sum_combine) - 1, row, here > 0)
    tl.store(kept, first + tl.reduce(here, 0, tl.standard._sum_combine), block == tl.num_programs(0) - 1)


@Kernel
def _total(tally, counts, histogram, copies, cells, BINS: tl.constexpr, COPIES: tl.constexpr):
    """The sum of a cell's copies, taken apart."""
    cell = tl.program_id(0)
    copy, bin = tl.arange(0, COPIES), tl.arange(0, BINS)
    place = (copy.to(tl.int64) * cells + cell)[:, None] * BINS + bin[None, :]
    sums = tl.reduce(tl.load(tally + place, (copy < copies)[:, None], 0), 0, tl.standard._sum_combine)
    tl.store(histogram + cell.to(tl.int64) * BINS + bin, (sums & 0xFFFFFFFF).to(tl.int32))
    tl.store(counts + cell, tl.reduce(sums >> 32, 0, tl.standard._sum_combine).to(tl.int32))


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
    # In the interpreter a product of bfloat16 tiles is one of their bits.
    kinds = {tensor.dtype for tensor in (embeddings, texts, references) if tensor is not None}
    halves = len(kinds) == 1 and texts.dtype in HALVES[texts.is_cuda]
    one = classes <= ONE_TILE
    tile = _few_texts(classes, halves, references is not None) if one else MANY[halves]
    # The device has nothing to do before the first kernel: little is done before its launch.
    cells, blocks = classes * level_count, -(-count // BLOCK)
    copies = max(1, min(COPIES, CELLS // cells))
    sums = torch.zeros(copies * cells * BINS + blocks, dtype=torch.int64, device=device)
    text_norm = torch.linalg.vector_norm(texts, dim=1, dtype=torch.float32)
    text_score, margin = (torch.empty(count, dtype=torch.float32, device=device) for _ in range(2))
    image_score = None if references is None else torch.empty_like(text_score)
    rank = torch.empty(count, dtype=torch.int32, device=device)
    keep = torch.empty(count, dtype=torch.int8, device=device)
    _score_rows.launch(
        (-(-count // tile["ROWS"]),), embeddings.contiguous(), texts.contiguous(), text_norm, class_ids.contiguous(),
        levels.contiguous(), None if references is None else references.contiguous(), text_score, image_score, margin,
        rank, keep, sums[copies * cells * BINS :], sums, threshold, count, classes, level_count, copies, width,
        device=device, BINS=BINS, BLOCK=BLOCK, ONE=one, HALF=halves, STAGES=tile["num_stages"], **tile,
    )  # fmt: skip
    accepted, kept = (torch.empty(size, dtype=torch.int64, device=device) for size in (count, 1))
    _compact.launch((blocks,), keep, sums[copies * cells * BINS :], accepted, kept, count, device=device, BLOCK=BLOCK)
    counts = torch.empty(classes, level_count, dtype=torch.int32, device=device)
    histogram = torch.empty(classes, level_count, BINS, dtype=torch.int32, device=device)
    _total.launch((cells,), sums, counts, histogram, copies, cells, device=device, BINS=BINS, COPIES=COPIES)
    accepted = accepted[: int(kept) if count else 0]  # the one wait for the device
    return RowScores(text_score, image_score, margin, rank, keep.view(torch.bool), accepted, counts, histogram)


def _few_texts(classes: int, halves: bool, references: bool) -> dict[str, int]:
    """As MANY, of a tile that holds all texts: as large as registers allow (sm_90: 140 a thread for 16 texts)."""
    texts = max(16, 1 << (classes - 1).bit_length())
    large = texts > 32
    if halves:
        shape = {"ROWS": 16 if large else 32, "WIDTH": 64 if large or references else 128, "num_warps": 1}
    else:
        shape = {"ROWS": 32, "WIDTH": 16 if large else 32, "num_warps": texts // 16}
    return shape | {"TEXTS": texts, "num_stages": 1}


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
