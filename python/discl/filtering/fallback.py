"""Holes of (source, level) in, images that the numbers had left out taken back for them."""

from dataclasses import dataclass

import numpy as np

from discl.filtering.cuts import best_of_groups
from discl.filtering.spool import Spool


@dataclass(frozen=True)
class Fallback:
    """Images that lacked, and where they came from: of the level itself, of another one, of none."""

    lacking: int
    own_level: int
    other_level: int

    @property
    def left(self) -> int:
        return self.lacking - self.own_level - self.other_level


def taken_back(spool: Spool, alive: np.ndarray, spare: np.ndarray, minimum: int) -> Fallback:
    """Add to `alive`, in place, spare images for every (source, level) that has fewer than `minimum`.

    A level's own spare images come first, then those of the next higher levels (nearer to the real image), then those
    of the next lower ones; the best by score of each. Sources of this recipe count, also those without an image.
    """
    shape = (spool.sources, len(spool.levels))
    kept, left = (
        spool.counts(mask, spool.by_source_level, shape[0] * shape[1]).reshape(shape) for mask in (alive, spare)
    )
    lack = np.where(spool.there[:, None], np.maximum(minimum - kept, 0), 0)
    lacking, extra = int(lack.sum()), np.zeros_like(left)
    found = [0, 0]
    levels = list(range(shape[1]))
    for step, order in enumerate(_orders(levels)):
        for level, other in order:
            take = np.minimum(lack[:, level], left[:, other])
            lack[:, level] -= take
            left[:, other] -= take
            extra[:, other] += take
            found[step > 0] += int(take.sum())
    alive |= best_of_groups(spool, spare, extra.ravel(), spool.by_source_level, extra.size)
    return Fallback(lacking, *found)


def _orders(levels: list[int]) -> list[list[tuple[int, int]]]:
    """Every level's own images first, so that no other level takes what it needs itself."""
    top = len(levels)
    own = [(level, level) for level in levels]
    up = [(level, level + far) for far in range(1, top) for level in levels if level + far < top]
    down = [(level, level - far) for far in range(1, top) for level in levels if level - far >= 0]
    return [own, up, down]
