"""Groups of rows and their scores in; the rows above a quantile, or the best k of every group, out.

One 8-byte number per row, the group above and the score below, is sorted in place: the only array of the rules that
grows with the store beside its masks.
"""

from collections.abc import Callable

import numpy as np

from discl.filtering.spool import Spool

GroupOf = Callable[[np.ndarray], np.ndarray]
SIGN = np.uint32(1 << 31)


def ordered(score: np.ndarray) -> np.ndarray:
    """uint32 in the order of these float32; both zeros are one."""
    bits = (score.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def _score(bits: np.ndarray) -> np.ndarray:
    return np.where(bits & SIGN, bits ^ SIGN, ~bits).astype(np.uint32).view(np.float32)


def _sorted(spool: Spool, mask: np.ndarray, group_of: GroupOf, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """(scores as `ordered` gives them, by group and rising; where each of the groups begins, and the end)."""
    both = np.empty(int(mask.sum()), np.uint64)
    end = 0
    for rows, records in spool.chunks():
        records = records[mask[rows]]
        place = slice(end, end := end + len(records))
        both[place] = group_of(records).astype(np.uint64) << np.uint64(32) | ordered(records["score"])
    both.sort()
    starts = np.searchsorted(both, np.arange(groups + 1, dtype=np.uint64) << np.uint64(32))
    return both, starts


def above_quantile(spool: Spool, mask: np.ndarray, quantile: float, group_of: GroupOf, groups: int) -> np.ndarray:
    """float64 [groups]: numpy's linear quantile of the scores of each group's rows in the mask; -inf of none."""
    both, starts = _sorted(spool, mask, group_of, groups)
    counts = np.diff(starts)
    some = counts > 0
    place = starts[:-1][some] + quantile * (counts[some] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, starts[1:][some] - 1)
    low, high = (_score(both[at].astype(np.uint32)).astype(np.float64) for at in (below, above))
    cuts = np.full(groups, -np.inf)
    cuts[some] = low + (high - low) * (place - below)
    return cuts


def best_of_groups(
    spool: Spool, mask: np.ndarray, most: np.ndarray | int, group_of: GroupOf, groups: int
) -> np.ndarray:
    """bool [rows]: of every group's rows in the mask the `most` best by score; of equal ones the lowest keys first."""
    both, starts = _sorted(spool, mask, group_of, groups)
    ends, counts = starts[1:], np.diff(starts)
    most = np.minimum(np.broadcast_to(np.asarray(most, np.int64), groups), counts)
    cut = np.full(groups, np.uint64(1) << np.uint64(33), np.uint64)  # above every score: nothing
    some = most > 0
    cut[some] = both[ends[some] - most[some]] & np.uint64(0xFFFFFFFF)
    higher = ends - np.searchsorted(both, (np.arange(groups, dtype=np.uint64) << np.uint64(32)) + cut, "right")
    room = np.where(some, most - higher, 0)
    del both
    return _above(spool, mask, group_of, cut, room)


def _above(spool: Spool, mask: np.ndarray, group_of: GroupOf, cut: np.ndarray, room: np.ndarray) -> np.ndarray:
    chosen = np.zeros(len(spool), bool)
    equal: list[np.ndarray] = []
    for rows, records in spool.chunks():
        at = np.flatnonzero(mask[rows])
        records = records[at]
        group, score = group_of(records), ordered(records["score"]).astype(np.uint64)
        chosen[rows.start + at] = score > cut[group]
        tied = np.flatnonzero(score == cut[group])
        equal.append(np.stack([group[tied], records["tie"][tied].astype(np.int64), rows.start + at[tied]]))
    group, tie, row = np.concatenate(equal, 1) if equal else np.empty((3, 0), np.int64)
    order = np.lexsort((row, tie, group))
    group, row = group[order], row[order]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    chosen[row[place < room[group]]] = True
    return chosen
