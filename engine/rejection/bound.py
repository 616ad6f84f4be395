"""How low a bound must lie so that few accepted images fall below it: order statistics and exact binomial intervals."""

import math

from scipy.special import betaincinv

CONFIDENCE = 0.9  # that a calibrated bound's true false-reject rate is below the limit
LEVEL_SHARE = 2.0  # times the limit of all levels together: what one of them may spend of it


def level_limit(limit: float) -> float:
    """The false-reject rate that one level may have."""
    return min(1.0, LEVEL_SHARE * limit)


def bound_rank(count: int, limit: float, confidence: float = CONFIDENCE) -> int:
    """Which of `count` sorted calibration values (1 is the smallest) may be the bound; 0 when there are too few.

    Of independent accepted samples, the share that falls below the k-th smallest of `count` others is distributed as
    Beta(k, count - k + 1) (Wilks 1941). The rank is the largest k with P(share <= limit) >= confidence, so it holds
    for this many samples and not only for very many; it never falls when `limit` or `count` grows.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if betaincinv(middle, count - middle + 1, confidence) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def needed(limit: float, confidence: float = CONFIDENCE) -> float:
    """Accepted calibration samples below which `bound_rank` is 0; infinite for a limit of 0."""
    if limit <= 0:
        return math.inf
    return 1 if limit >= 1 else math.ceil(math.log(1 - confidence) / math.log1p(-limit))


def interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a rate of which `hits` of `count` were seen (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high
