"""The two axes of a ClipPlan in; the integer matrices out with which `clip_input` resizes on tensor cores.

A resize is a product with a banded matrix. Pillow's weights have 22 bits and a sign: three digits to the base 256, each
from -128 to 127, so a product is three of 8-bit integers, which tensor cores do exactly. Their pixels are signed too,
pixel - 128; the biases give 128 times the sum of the weights back.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from discl.kernels.clip_plan import Axis

BITS = 22  # Pillow keeps a tap's weight as an integer in units of 2**-22
COLUMNS = 5  # of a tile: with three channels they fill 15 of a tensor core's 16 rows
TABLE = 8  # the number of column tiles in the tables is a multiple of it
WIDEST, TALLEST, MOST = 256, 64, 64  # SPAN, CHUNK and ROWS at most; a warp's registers hold no more


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Columns first, then rows, as products of small matrices; digits from the lowest to the highest.

    A column tile makes 5 columns of the result, in all channels, from `span` bytes of each image row, which begin at
    align * column_first. A chunk of `chunk` image rows gives a share to the result's rows [row_first[i],
    row_first[i + 1]) that end in it, and one to those that end in the next.

    column_first: int32 [T]. column_weight: int8 [T, 3, 16, span], place 5 * channel + column. column_bias: int32
    [T, 16]. row_first: int32 [chunks + 1]. row_weight: int8 [chunks, 3, 2 * rows, chunk], place 2 * row, or
    2 * row + 1 for the share to the next chunk. row_bias: int32 [chunks, rows]. origin: the first image row of the
    first chunk.
    """

    count: int  # of column tiles, without those that fill the tables
    align: int
    span: int
    column_first: torch.Tensor
    column_weight: torch.Tensor
    column_bias: torch.Tensor
    chunk: int
    rows: int
    origin: int
    row_first: torch.Tensor
    row_weight: torch.Tensor
    row_bias: torch.Tensor
    whole: bool  # no tile or chunk reaches out of the image

    @classmethod
    def build(cls, rows: Axis, columns: Axis) -> Tiles | None:
        """None where the taps, or the rows that end in one chunk, are too many for registers."""
        device = rows.start.device
        across, down = _across(columns), _down(rows)
        if across["span"] > WIDEST or down["chunk"] > TALLEST or down["rows"] > MOST:
            return None
        whole = rows.length >= down["origin"] + down["chunk"] * len(down["row_weight"]) and (
            3 * columns.length >= across["span"]
        )
        tables = {
            name: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
            for name, value in (across | down).items()
        }
        return cls(**tables, whole=whole)


def _across(axis: Axis) -> dict:
    start, weight, last, used = _taps(axis)
    tile, column = np.divmod(np.arange(len(start)), COLUMNS)
    count = int(tile[-1]) + 1
    low, high = np.full(count, axis.length), np.zeros(count, np.int64)
    np.minimum.at(low, tile[used], start[used])
    np.maximum.at(high, tile[used], last[used] + 1)
    low = np.minimum(low, high)

    def fit(align: int) -> tuple[int, int, np.ndarray]:
        first = 3 * low // align * align
        span = _power(int((3 * high - first).max()), 32)
        return span, -align, np.minimum(first, max(3 * axis.length - span, 0) // align * align)

    # The widest loads that do not widen the tile.
    span, align, first = min((fit(align) for align in (16, 8, 4, 2, 1) if 3 * axis.length % align == 0), key=_key)
    full = -(-count // TABLE) * TABLE
    table = np.zeros((full, 3, 16, span), np.int8)
    bias = np.zeros((full, 16), np.int32)
    output, tap = weight.nonzero()
    for channel in range(3):
        place = 3 * (start[output] + tap) + channel - first[tile[output]]
        table[tile[output], :, COLUMNS * channel + column[output], place] = _digits(weight[output, tap])
        bias[tile, COLUMNS * channel + column] = _bias(axis, weight) - (128 << BITS)  # the result is signed again
    return {
        "count": count,
        "align": -align,
        "span": span,
        "column_first": np.pad(first // -align, (0, full - count)).astype(np.int32),
        "column_weight": table,
        "column_bias": bias,
    }


def _down(axis: Axis) -> dict:
    start, weight, last, used = _taps(axis)
    origin = int(start[used].min())
    start, last = start - origin, last - origin
    chunk = _power(int((last - start)[used].max()), 32)
    # An output without taps, only a fill, ends with the one before it.
    ends = np.maximum.accumulate(np.where(used, last, 0)) // chunk
    chunks = int(ends[-1]) + 1
    first = np.searchsorted(ends, np.arange(chunks + 1))
    rows = _power(int(np.diff(first).max()), 8)
    table = np.zeros((chunks, 3, 2 * rows, chunk), np.int8)
    bias = np.zeros((chunks, rows), np.int32)
    output, tap = weight.nonzero()
    of, place = np.divmod(start[output] + tap, chunk)
    row = np.arange(len(start)) - first[ends]
    table[of, :, 2 * row[output] + ends[output] - of, place] = _digits(weight[output, tap])
    bias[ends, row] = _bias(axis, weight)
    return {
        "chunk": chunk,
        "rows": rows,
        "origin": origin,
        "row_first": first.astype(np.int32),
        "row_weight": table,
        "row_bias": bias,
    }


def _key(fit: tuple[int, int, np.ndarray]) -> tuple[int, int]:
    return fit[:2]


def _taps(axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every output: the first tap, the weights, the last tap with a weight, and whether there is one."""
    start, weight = (tensor.cpu().numpy().astype(np.int64) for tensor in (axis.start, axis.weight))
    taps = weight.shape[1] - 1 - (weight[:, ::-1] != 0).argmax(1)
    used = weight.any(1)
    return start, weight, start + np.where(used, taps, 0), used


def _digits(weight: np.ndarray) -> np.ndarray:
    """[n] -> [n, 3], the lowest first."""
    low = (weight + 128) % 256 - 128
    middle = ((weight - low) // 256 + 128) % 256 - 128
    return np.stack([low, middle, (weight - low - 256 * middle) >> 16], 1)


def _bias(axis: Axis, weight: np.ndarray) -> np.ndarray:
    """Half a unit, to round, the fill, and what signed pixels lack."""
    return (axis.fill.cpu().numpy().astype(np.int64) << BITS) + (1 << (BITS - 1)) + 128 * weight.sum(1)


def _power(size: int, least: int) -> int:
    return max(least, 1 << (size - 1).bit_length())
