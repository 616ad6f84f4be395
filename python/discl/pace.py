"""How evenly a run went: network rows over time in, stretches of about equal length out; how far others may be off."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.special import stdtrit

MOST = 32  # stretches that are kept, up to twice as many
FIRST_S = 1.0


class Pace:
    """marks: (seconds, network rows so far), at most 2 * MOST of them; their distance doubles when there are more."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []
        self._every = FIRST_S

    def due(self, seconds: float) -> bool:
        return seconds - (self.marks[-1][0] if self.marks else 0.0) >= self._every

    def note(self, seconds: float, rows: int) -> None:
        self.marks.append((seconds, rows))
        if len(self.marks) > 2 * MOST:
            self.marks, self._every = self.marks[1::2], 2 * self._every


def unsteadiness(paces: Sequence[float]) -> float | None:
    """By which share the pace of neighbouring blocks of stretches differs, in four cases of five at most; None for
    fewer than two stretches.

    A pace that drifts differs the more the longer the blocks are, so they are compared at every length that there is,
    each by Student's t for so few differences, and the widest counts. Spread about the mean would not do: a short run
    that drifts has moved its mean as well.
    """
    found, blocks = [], np.asarray(paces, np.float64)
    while len(blocks) > 1:
        change = np.diff(blocks) / np.mean(paces)
        found.append(stdtrit(len(change), 0.9) * np.sqrt(np.mean(change**2)))
        blocks = blocks[len(blocks) % 2 :].reshape(-1, 2).mean(1)
    return float(max(found)) if found else None


def span(unsteady: float, seen: float, coming: float) -> float:
    """By which share a run of `coming` seconds may be slower than one of `seen` said, or faster, in four cases of five.

    A pace that walks at random is the worst case: the means of both differ by 1 + coming/seen of the variance by which
    the halves of the first do. Where a machine's drift levels off, the span of a long run is too wide.
    """
    return unsteady * math.sqrt(1 + coming / seen)


def seconds_per_row(marks: list[tuple[float, int]]) -> list[float]:
    """Of every stretch but the first, in which the slots fill."""
    return [(end - begin) / (after - before) for (begin, before), (end, after) in pairwise(marks) if after > before]
