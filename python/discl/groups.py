"""Groups of a dataset's rows: a group number per row in, any groups' rows out as a few slices."""

from collections.abc import Callable, Iterable

import numpy as np

CHUNK = 1 << 22  # rows looked at together: 10^8 rows are grouped without arrays of 10^8 int64


class Rows:
    """Dataset rows as `segments`, ranges and arrays that stand end to end; `np.asarray` makes one int64 array."""

    def __init__(self, segments: Iterable[range | np.ndarray]):
        self.segments = [segment for segment in segments if len(segment)]

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        parts = [np.asarray(segment, np.int64) for segment in self.segments]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(dtype or np.int64, copy=False)

    def tolist(self) -> list[int]:
        return np.asarray(self).tolist()


class Groups:
    """The rows first, first + 1, ..., first + length - 1 by group.

    numbers(start, stop): int [stop - start], the group in [0, groups) of each of these places. Where they
    never fall, groups are ranges and nothing is stored; else one integer per row.
    """

    def __init__(self, numbers: Callable[[int, int], np.ndarray], length: int, groups: int, first: int = 0):
        self.counts = np.zeros(groups, np.int64)
        self.first, rising, last = first, True, 0
        for start in range(0, length, CHUNK):
            part = numbers(start, min(start + CHUNK, length))
            rising = rising and last <= part[0] and bool((part[:-1] <= part[1:]).all())
            last = part[-1]
            self.counts += np.bincount(part, minlength=groups)
        self.ends = np.concatenate([[0], np.cumsum(self.counts)])
        self._sorted = None if rising else self._sort(numbers, length)

    def _sort(self, numbers: Callable[[int, int], np.ndarray], length: int) -> np.ndarray:
        """Rows by group and, inside a group, in their own order."""
        kind = np.int32 if self.first + length < 2**31 else np.int64
        out, filled = np.empty(length, kind), self.ends[:-1].copy()
        for start in range(0, length, CHUNK):
            part = numbers(start, min(start + CHUNK, length))
            order = np.argsort(part, kind="stable")
            counts = np.bincount(part, minlength=len(self.counts))
            before = np.cumsum(counts) - counts
            out[np.repeat(filled - before, counts) + np.arange(len(part))] = order + (self.first + start)
            filled += counts
        return out

    def rows(self, groups: Iterable[int]) -> Rows:
        """The rows of these groups; neighbours share a segment."""
        return Rows(self._slice(first, last) for first, last in _runs(sorted(set(groups))))

    def _slice(self, first: int, last: int) -> range | np.ndarray:
        start, stop = int(self.ends[first]), int(self.ends[last + 1])
        if self._sorted is None:
            return range(self.first + start, self.first + stop)
        return self._sorted[start:stop]


def _runs(numbers: list[int]) -> Iterable[tuple[int, int]]:
    """First and last of every run of consecutive numbers."""
    for place, number in enumerate(numbers):
        if not place or number != numbers[place - 1] + 1:
            first = number
        if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
            yield first, number
