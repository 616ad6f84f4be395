"""How evenly a run went: network rows over time in, stretches of about equal length out."""

from itertools import pairwise

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


def seconds_per_row(marks: list[tuple[float, int]]) -> list[float]:
    """Of every stretch but the first, in which the slots fill."""
    return [(end - begin) / (after - before) for (begin, before), (end, after) in pairwise(marks) if after > before]
