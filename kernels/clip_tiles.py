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
COLUMNS = 4  # of a tile: with three channels they fill 12 of a tensor core's 16 rows, and stores are whole sectors
TABLE = 4  # the number of column tiles in the tables is a multiple of it
WIDEST, TALLEST, MOST = 256, 64, 64  # span, chunk and rows at most
ALIGNS = (16, 8)  # of what a lane loads, in bytes


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Columns first, then rows, as products of small matrices; digits from the lowest to the highest.

    A column tile makes 4 columns of the result, in all channels, from `span` bytes of each image row, which begin at
    align * column_first. A chunk of `chunk` image rows gives a share to the result's rows [row_first[i],
    row_first[i + 1]) that end in it, and one to those that end in the next, at most `begun`.

    column_first: int32 [T]. column_weight: int8 [T, 3, 16, span], place 8 * (column % 2) + 2 * channel + column // 2.
    column_bias: int32 [T, 16]. row_first: int32 [chunks + 1]. row_weight: int8 [chunks, 3, (rows + begun) * chunk], of
    the rows that end here, then of those that end in the next chunk, each as `_lanes` says. row_bias: int32
    [chunks, rows]. origin: the first image row of the first chunk.
    """

    count: int  # of column tiles, without those that fill the tables
    align: int
    span: int
    column_first: torch.Tensor
    column_weight: torch.Tensor
    column_bias: torch.Tensor
    chunk: int
    rows: int
    begun: int
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
            line(columns.length) >= across["span"]
        )
        tables = {
            name: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
            for name, value in (across | down).items()
        }
        return cls(**tables, whole=whole)


def line(width: int) -> int:
    """Bytes of an image row as the kernel reads it; others than of a multiple of 8 pixels are lengthened."""
    return 3 * width if width % 8 == 0 else -(-3 * width // 16) * 16


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
        span = _power(int((3 * high - first).max()), max(32, 4 * align))
        return span, -align, np.minimum(first, max(line(axis.length) - span, 0) // align * align)

    # The widest loads that do not widen the tile.
    span, align, first = min((fit(align) for align in ALIGNS if line(axis.length) % align == 0), key=_key)
    full = -(-count // TABLE) * TABLE
    table = np.zeros((full, 3, 16, span), np.int8)
    bias = np.zeros((full, 16), np.int32)
    output, tap = weight.nonzero()
    for channel in range(3):
        # A lane gets the results of places n and n + 8: neighbours, which it stores together.
        n = 8 * (column % 2) + 2 * channel + column // 2
        place = 3 * (start[output] + tap) + channel - first[tile[output]]
        table[tile[output], :, n[output], place] = _digits(weight[output, tap])
        bias[tile, n] = _bias(axis, weight) - (128 << BITS)  # the result is signed again
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
    row = np.arange(len(start)) - first[ends]
    output, tap = weight.nonzero()
    of, place = np.divmod(start[output] + tap, chunk)
    later = of < ends[output]
    rows, begun = (_power(int(most) + 1, 8) for most in (row.max(), row[output[later]].max(initial=0)))
    shares = [np.zeros((chunks, 3, size, chunk), np.int8) for size in (rows, begun)]
    for share, here in zip(shares, (~later, later), strict=True):
        share[of[here], :, row[output[here]], place[here]] = _digits(weight[output[here], tap[here]])
    bias = np.zeros((chunks, rows), np.int32)
    bias[ends, row] = _bias(axis, weight)
    return {
        "chunk": chunk,
        "rows": rows,
        "begun": begun,
        "origin": origin,
        "row_first": first.astype(np.int32),
        "row_weight": np.concatenate([_lanes(share) for share in shares], 2),
        "row_bias": bias,
    }


def _lanes(share: np.ndarray) -> np.ndarray:
    """[chunks, 3, n, chunk] -> [chunks, 3, n * chunk]: a lane of a tensor core takes its quarter of row after row, 16
    bytes at a time where there are as many, and eight rows are side by side."""
    chunks, digits, n, chunk = share.shape
    together = min(64 // chunk, n // 8)
    quarters = share.reshape(chunks, digits, n // 8 // together, together, 8, 4, chunk // 4)
    return quarters.transpose(0, 1, 2, 4, 5, 3, 6).reshape(chunks, digits, n * chunk)


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
