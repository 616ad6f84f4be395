"""Data order: ids of one epoch from `discl._C.order` beside what loaders rebuild with numpy each epoch.

Timed: 2^20 ids, from pools to the shuffled int64 array. Peer: numpy draws without replacement from each pool, then
shuffles the whole, as the reference code's loader does.
"""

import numpy as np
import pytest

from benchmarks.timing import record_micro
from discl._C import order

IDS = 1 << 20
POOLS = [(range(0, 10 * IDS), IDS // 2), (range(10 * IDS, 11 * IDS), IDS // 4), (range(11 * IDS, 12 * IDS), IDS // 4)]


def native() -> np.ndarray:
    return order(POOLS, 0, 1, 0, IDS, 0, 1)


def rebuilt() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.permutation(np.concatenate([rng.permutation(np.arange(p.start, p.stop))[:n] for p, n in POOLS]))


@pytest.mark.parametrize("draw", [native, rebuilt], ids=["discl", "numpy"])
def test_one_epoch(benchmark, draw):
    assert len(np.unique(draw())) == IDS
    benchmark(draw)


def run(small: bool = False) -> None:
    record_micro("order", __file__, ours="discl", peers=("numpy",), small=small)
