"""How many images of which tail class an epoch holds beside the rest: one function per rule of `curriculum.fill`.

Each takes a Curriculum and gives, class by class, the target count of the tail (int64 [C], 0 for classes without a
tail), which real and synthetic images then make up. "share" and "union" are about the tail as a whole and are
curriculum.py's own.
"""

from fractions import Fraction
from math import ceil, isqrt

import numpy as np


def balanced(curriculum) -> np.ndarray:
    """As many as the largest class of all has."""
    return _at_least_real(curriculum, np.full(curriculum.classes, _most(curriculum)))


def square_root(curriculum) -> np.ndarray:
    """The geometric mean of the class's own count and the largest one: half way to balance, in the logarithm."""
    most = _most(curriculum)
    return _at_least_real(curriculum, np.array([isqrt(int(own) * most) for own in _own(curriculum)]))


def capped(curriculum) -> np.ndarray:
    """(1 + synthetic_scale) times the class's own, but no more than `fill_cap` together."""
    scale = 1 + Fraction(repr(curriculum.config.synthetic_scale))  # exact: ceil(10 * 1.1) is 12
    grown = [ceil(int(own) * scale) for own in _own(curriculum)]
    return _at_least_real(curriculum, np.minimum(grown, curriculum.config.fill_cap))


def _own(curriculum) -> np.ndarray:
    """Real tail images by class."""
    return curriculum.real.counts.reshape(2, -1)[1]


def _most(curriculum) -> int:
    return int(curriculum.real.counts.reshape(2, -1).sum(0).max())


def _at_least_real(curriculum, targets: np.ndarray) -> np.ndarray:
    """No real tail image is lost, and a class without any gets nothing."""
    own = _own(curriculum)
    return np.where(own > 0, np.maximum(targets, own), 0).astype(np.int64)


TARGETS = {"balanced": balanced, "sqrt": square_root, "capped": capped}
