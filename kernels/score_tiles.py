"""Parts of the kernel `score_rows`: a tile of rows and all texts in; each row's score, its rivals, its likeness out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discl.kernels.dispatch import Kernel

if TYPE_CHECKING:
    import triton.language as tl


@Kernel
def few_texts(images, sources, texts, text_norm, own, last, classes, width: tl.constexpr, HALF: tl.constexpr,
              ROWS: tl.constexpr, TEXTS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """One tile holds all texts, so one loop over the width reads every embedding once."""
    OWN: tl.constexpr = (ROWS, ROWS) if HALF else (ROWS,)
    dots = tl.full((ROWS, TEXTS), 0, tl.float32)
    square = tl.full(OWN, 0, tl.float32)
    source_square = tl.full(OWN, 0, tl.float32)
    source_dot = tl.full(OWN, 0, tl.float32)
    for start in range(0, width, WIDTH):
        image = _tile(images, start, last, width, HALF, ROWS, WIDTH)
        text = _tile(texts, start, classes - 1, width, HALF, TEXTS, WIDTH)
        dots = tl.dot(image, tl.trans(text), dots, input_precision="ieee")
        square = _own(square, image, image, HALF)
        if sources is not None:
            source = _tile(sources, start, last, width, HALF, ROWS, WIDTH)
            source_square = _own(source_square, source, source, HALF)
            source_dot = _own(source_dot, image, source, HALF)
    scale = 1.0 / _length(_sums(square, HALF, ROWS))
    likeness = _sums(source_dot, HALF, ROWS) * scale / _length(_sums(source_square, HALF, ROWS))
    other = tl.arange(0, TEXTS)
    factor = 1.0 / tl.maximum(tl.load(text_norm + other, other < classes, 1.0), 1e-12)
    cosine = dots * scale[:, None] * factor[None, :]
    mine = other[None, :] == own[:, None]
    score = tl.reduce(tl.where(mine, cosine, 0.0), 1, tl.standard._sum_combine)
    rival, higher = _rivals(cosine, mine, score, other, classes)
    return score, rival, higher, likeness


@Kernel
def many_texts(images, sources, texts, text_norm, own, last, classes, width: tl.constexpr, HALF: tl.constexpr,
               ROWS: tl.constexpr, TEXTS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """One loop over the width for what concerns a row's own text and source, then one for each tile of texts."""
    r = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    square = tl.full((ROWS,), 0, tl.float32)
    own_dot = tl.full((ROWS,), 0, tl.float32)
    source_square = tl.full((ROWS,), 0, tl.float32)
    source_dot = tl.full((ROWS,), 0, tl.float32)
    for start in tl.range(0, width, WIDTH, num_stages=STAGES):
        at = start + column
        there = (r <= last) & (at < width)
        image = tl.load(images + r * width + at, there, 0.0).to(tl.float32)
        text = tl.load(texts + own.to(tl.int64)[:, None] * width + at, there, 0.0).to(tl.float32)
        # Not tl.sum: it cannot be interpreted in a process that imported Triton to compile.
        square += tl.reduce(image * image, 1, tl.standard._sum_combine)
        own_dot += tl.reduce(image * text, 1, tl.standard._sum_combine)
        if sources is not None:
            source = tl.load(sources + r * width + at, there, 0.0).to(tl.float32)
            source_square += tl.reduce(source * source, 1, tl.standard._sum_combine)
            source_dot += tl.reduce(image * source, 1, tl.standard._sum_combine)
    scale = 1.0 / _length(square)
    likeness = source_dot * scale / _length(source_square)
    score = own_dot * scale / tl.maximum(tl.load(text_norm + own), 1e-12)

    rival = tl.full((ROWS,), -1.0, tl.float32)
    higher = tl.full((ROWS,), 0, tl.int32)
    for first in range(0, classes, TEXTS):
        other = first + tl.arange(0, TEXTS)
        named = (other < classes)[:, None]
        dots = tl.full((ROWS, TEXTS), 0, tl.float32)
        for start in range(0, width, WIDTH):
            at = start + column
            image = tl.load(images + r * width + at, (r <= last) & (at < width), 0.0)
            text = tl.load(texts + other[:, None].to(tl.int64) * width + at, named & (at < width), 0.0)
            if not HALF:
                image = image.to(tl.float32)
                text = text.to(tl.float32)
            dots = tl.dot(image, tl.trans(text), dots, input_precision="ieee")
        factor = 1.0 / tl.maximum(tl.load(text_norm + other, other < classes, 1.0), 1e-12)
        mine = other[None, :] == own[:, None]
        best, above = _rivals(dots * scale[:, None] * factor[None, :], mine, score, other, classes)
        rival = tl.maximum(rival, best)
        higher += above
    return score, rival, higher, likeness


@Kernel
def _tile(lines, start, last, width: tl.constexpr, HALF: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr):
    """WIDTH columns of LINES lines, those behind the last one like it, as factor of a matrix product.

    A product does not ask in which order its sums are made. Four lanes share a line and load 16 bytes each, and are
    told that these are the columns that a tensor core asks of them: nothing goes through shared memory.
    """
    EACH: tl.constexpr = 8 if HALF else 4
    at = tl.arange(0, WIDTH // (4 * EACH) * LINES)
    first, across = at // LINES * (4 * EACH), tl.arange(0, 4 * EACH)[None, :]
    place = lines + start + ((tl.minimum(at % LINES, last) * width + first)[:, None] + across)
    tile = tl.load(place) if width % WIDTH == 0 else tl.load(place, first[:, None] + across < width - start, 0.0)
    tile = tl.reshape(tile, (WIDTH // (4 * EACH), LINES, 4, 4, EACH // 4))
    tile = tl.reshape(tl.permute(tile, (1, 0, 3, 2, 4)), (LINES, WIDTH))
    return tile if HALF else tile.to(tl.float32)


@Kernel
def _own(sums, tile, other, HALF: tl.constexpr):
    """Adds the product of each line with its own of the other tile. In halves a tensor core multiplies all lines with
    all; of that the compiler leaves out what `_sums` does not look at, but for blocks of eight lines."""
    if HALF:
        return tl.dot(tile, tl.trans(other), sums)
    else:
        return sums + tl.reduce(tile * other, 1, tl.standard._sum_combine)


@Kernel
def _sums(sums, HALF: tl.constexpr, LINES: tl.constexpr):
    if HALF:
        line = tl.arange(0, LINES)
        return tl.reduce(tl.where(line[:, None] == line[None, :], sums, 0.0), 1, tl.standard._sum_combine)
    else:
        return sums


@Kernel
def _length(square):
    return tl.maximum(tl.sqrt(square), 1e-12)


@Kernel
def _rivals(cosine, mine, score, other, classes):
    """Of a tile's other classes: the highest cosine, and how many are above the score."""
    cosine = tl.where(mine | (other >= classes)[None, :], -1.0, cosine)
    higher = tl.reduce((cosine > score[:, None]).to(tl.int32), 1, tl.standard._sum_combine)
    return tl.reduce(cosine, 1, tl.standard._elementwise_max), higher
