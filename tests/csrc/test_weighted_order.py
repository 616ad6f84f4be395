"""Weighted draws: the exact law by enumeration, equality with a short twin, and chi-square over epochs."""

import math
import random
from bisect import bisect_right
from collections import Counter
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from scipy.stats import chisquare

from discl import _C
from tests.csrc.test_order import cut, flat, permuted, round_keys, total


def units(ids, weights):
    """Whole units of each id: the largest weight becomes 2^30 to 2^31."""
    kept = [float(np.float32(weights[i])) for i in ids]
    exponent = min(31, 62 - math.frexp(len(ids))[1]) - math.frexp(max(kept))[1]
    return [int(math.ldexp(weight, exponent)) or int(weight > 0) for weight in kept]


def owner(ends, number, quota, random_word):
    """The place whose units draw `number` of `quota` falls on: uniform inside its stratum."""
    within = random_word * ends[-1] >> 64
    return bisect_right(ends, (number * ends[-1] + within) // quota)


def twin(ids, quota, weights, seed, epoch):
    """The order of one weighted pool, id by id."""
    ids, ends = flat(ids), list(accumulate(units(flat(ids), weights)))
    out = []
    for position in range(quota):
        number = permuted(position, quota, round_keys(seed, epoch, 0), 0)
        words = _C.philox4x32([number, 0, epoch, 2], [seed & 0xFFFFFFFF, seed >> 32])
        out.append(ids[owner(ends, number, quota, words[0] | words[1] << 32)])
    return out


def some_weights(rng, length):
    kinds = [
        lambda: rng.random(),
        lambda: rng.choice([0.0, 1.0, 1e-9, 5.0]),
        lambda: math.exp(rng.uniform(-30, 30)),
        lambda: float(rng.randint(1, 3)),
    ]
    kind = rng.choice(kinds)
    weights = np.array([kind() for _ in range(length)], np.float32)
    weights[rng.randrange(length)] = 1.0
    return weights


seeds = pytest.mark.parametrize("seed", range(25))


@seeds
def test_equals_the_twin(seed):
    rng = random.Random(seed)
    first, step, size = rng.randrange(20), rng.choice([1, 1, 3]), rng.choice([1, 5, 16, 17, 100])
    ids, quota = range(first, first + step * size, step), rng.randint(1, 150)
    weights = some_weights(rng, first + step * size)
    weights[first] = 2.0  # one positive weight in the pool at least
    expected = twin(ids, quota, weights, seed, 7)
    assert len(expected) == quota
    for given in (ids, np.array(ids), np.array(ids, np.int32), cut(rng, ids)):
        np.testing.assert_array_equal(_C.order([(given, quota, weights)], seed, 7, 0, quota), expected)


@seeds
def test_equals_the_twin_wherever_the_weights_lie(seed):
    """Heavy ids among long runs of light ones; weights that begin anywhere in a cache line."""
    rng = random.Random(seed)
    size, quota = rng.choice([15, 16, 17, 31, 500, 2000]), 200
    weights = np.full(size + 16, 1e-7, np.float32)
    weights[[rng.randrange(size) for _ in range(5)]] = 1.0, 0.5, 0.3, 1.0, 2e-3
    expected = twin(range(size), quota, weights, seed, 3)
    for offset in range(16):
        room = np.zeros(len(weights) + 16, np.float32)
        room[offset : offset + len(weights)] = weights
        pool = range(size), quota, room[offset : offset + len(weights)]
        np.testing.assert_array_equal(_C.order([pool], seed, 3, 0, quota), expected)


@seeds
def test_the_exact_law(seed):
    """Over all values of the random word a draw falls on an id quota * units / total times, summed over draws."""
    rng = random.Random(seed)
    owned = [rng.randrange(6) for _ in range(rng.randint(1, 6))] + [1]
    ends, quota = list(accumulate(owned)), rng.randint(1, 9)
    hits = Counter()
    for number in range(quota):
        for within in range(ends[-1]):
            word = -(-(within << 64) // ends[-1])  # the smallest that gives `within`
            hits[owner(ends, number, quota, word)] += 1
    for place, count in enumerate(owned):
        assert Fraction(hits[place], ends[-1]) == Fraction(quota * count, ends[-1])


@seeds
def test_counts_stay_close_to_their_expectation(seed):
    rng = random.Random(seed)
    size, quota = rng.randint(1, 300), rng.randint(1, 2000)
    weights = some_weights(rng, size)
    drawn = np.bincount(_C.order([(range(size), quota, weights)], seed, 0, 0, quota), minlength=size)
    expected = quota * weights.astype(np.float64) / weights.sum(dtype=np.float64)
    assert drawn.sum() == quota
    assert np.abs(drawn - expected).max() < 2 + 1e-3
    assert not drawn[weights == 0].any()


@pytest.mark.parametrize("passes", [1, 3])
def test_equal_weights_draw_every_id_equally_often(passes):
    for weight in (1.0, 0.3, 1e-30, 3e38):
        ids = _C.order([(range(100, 1100), passes * 1000, np.full(1100, weight, np.float32))], 3, 1, 0, 10_000)
        assert set(np.bincount(ids)[100:]) == {passes}


@pytest.mark.parametrize("quota", [1, 7, 40])
def test_ids_come_in_proportion_at_every_position(quota):
    weights = np.array([5, 1, 0, 2, 8, 4], np.float32)
    epochs = 4000
    orders = np.stack([_C.order([(range(6), quota, weights)], 11, epoch, 0, quota) for epoch in range(epochs)])
    for position in {0, quota // 2, quota - 1}:
        seen = np.bincount(orders[:, position], minlength=6)
        assert seen[2] == 0
        law = np.delete(weights, 2) / weights.sum() * epochs
        assert chisquare(np.delete(seen, 2), law).pvalue > 1e-6, f"position {position}"
    if quota > 1:  # what follows is independent of what came, but for the strata
        pairs = Counter(zip(orders[:, 0].tolist(), orders[:, 1].tolist(), strict=True))
        assert len(pairs) > 15


@seeds
def test_ranks_and_resume_beside_even_pools(seed):
    rng = random.Random(seed)
    weights = some_weights(rng, 90)
    pools = [(range(30), 12), (range(30, 90), 80, np.maximum(weights, 1e-3)), (np.arange(90, 99), 20)]
    whole = _C.order(pools, seed, 2, 0, 200)
    assert len(whole) == total([pool[:2] for pool in pools])
    assert np.bincount(np.digitize(whole, [30, 90])).tolist() == [12, 80, 20]
    start, world = rng.randrange(112), rng.randint(1, 5)
    for rank in range(world):
        positions = [p for p in range(start, 112) if p % world == rank]
        np.testing.assert_array_equal(_C.order(pools, seed, 2, start, 200, rank, world), whole[positions])


def test_pools_and_epochs_draw_independently():
    weights = np.tile(np.array([1, 2, 3, 4], np.float32), 50)
    first, second = (np.sort(_C.order([(range(200), 50, weights)], 0, epoch, 0, 50)) for epoch in (0, 1))
    assert (first != second).any()
    both = _C.order([(range(100), 50, weights), (range(100, 200), 50, weights)], 0, 0, 0, 100)
    assert (np.sort(both[both < 100]) != np.sort(both[both >= 100]) - 100).any()


def test_weights_that_change_under_an_order_stay_harmless():
    weights, ids = np.ones(64, np.float32), np.arange(64)
    held = _C.Order([(ids, 100, weights)], 0, 0)
    weights[:] = 1e30
    ids[:] = -5
    assert set(held.ids(0, 100)) == {-5}


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ((range(3), 1, np.array([1, -1, 1.0])), "pool 0: the weight of id 1 is -1"),
        ((range(3), 1, np.array([1, np.nan, 1.0])), "pool 0: the weight of id 1 is nan"),
        ((range(3), 1, np.array([1, np.inf, 1.0])), "pool 0: the weight of id 1 is inf"),
        ((range(3), 1, np.ones(2)), "pool 0: the weight of id 2 is missing: there are 2"),
        (([np.array([-1])], 1, np.ones(2)), "pool 0: the weight of id -1 is missing"),
        ((range(3), 1, np.zeros(3)), "pool 0: no weight is positive"),
        ((range(3), 1, np.ones((3, 1))), "pool 0: weights must be a 1-D array of floats"),
        ((range(3), 1, [1, 2, 3]), "pool 0: weights must be a 1-D array of floats"),
    ],
)
def test_errors_say_what_was_given(pool, message):
    with pytest.raises(ValueError, match=message):
        _C.order([pool], 0, 0, 0, 1)


def test_a_pool_that_is_not_drawn_from_needs_no_weights():
    assert len(_C.order([(range(3), 0, np.zeros(3)), (range(2), 2)], 0, 0, 0, 9)) == 2
