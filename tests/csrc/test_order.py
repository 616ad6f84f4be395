"""The data order's laws, and equality with a twin that is short enough to read."""

import random
from collections import Counter
from math import isqrt

import numpy as np
import pytest
from scipy.stats import chisquare

from discl import _C

WORD = (1 << 64) - 1


def round_keys(seed, epoch, stream):
    blocks = [_C.philox4x32([i, stream, epoch, 1], [seed & 0xFFFFFFFF, seed >> 32]) for i in range(4)]
    return [low | high << 32 for block in blocks for low, high in (block[:2], block[2:])]


def permuted(index, n, keys, shift):
    rows = isqrt(n - 1) + 1
    sizes = rows, -(-n // rows)
    while True:
        halves = list(divmod(index, sizes[1]))
        for i, key in enumerate(keys):
            word = (halves[1 - i % 2] + key + shift) * 0xBF58476D1CE4E5B9 & WORD
            word = (word ^ word >> 32) * 0x94D049BB133111EB & WORD
            halves[i % 2] = (halves[i % 2] + (word * sizes[i % 2] >> 64)) % sizes[i % 2]
        index = halves[0] * sizes[1] + halves[1]
        if index < n:
            return index


def flat(ids):
    """Segments end to end; anything else as it is."""
    segments = isinstance(ids, list) and ids and not isinstance(ids[0], int)
    return [i for segment in ids for i in segment] if segments else ids


def twin(pools, seed, epoch, start, count, rank=0, world=1):
    pools = [(flat(ids), quota) for ids, quota in pools]
    quotas = [quota for _, quota in pools]
    out = []
    for position in range(start, min(start + count, sum(quotas))):
        if position % world == rank:
            slot, k = permuted(position, sum(quotas), round_keys(seed, epoch, 0), 0), 0
            while slot >= quotas[k]:
                slot, k = slot - quotas[k], k + 1
            ids = pools[k][0]
            turn, place = divmod(slot, len(ids))
            shift = turn * 0x9E3779B97F4A7C15
            out.append(ids[permuted(place, len(ids), round_keys(seed, epoch, k + 1), shift)])
    return np.array(out, np.int64)


def some_pools(rng):
    """Disjoint pools of every kind: ranges, arrays, empty ones, quotas below, at and far above the size."""
    pools, first = [], 0
    for _ in range(rng.randint(1, 9)):
        size = rng.choice([0, 1, 2, 3, 7, 40])
        ids = range(first, first + 3 * size, 3)
        quota = rng.choice([0, 1, size // 2, size, 2 * size, 2 * size + 1, 5 * size + size // 3]) if size else 0
        pools.append((ids if rng.random() < 0.5 else rng.sample(list(ids), size), quota))
        first += 3 * size + 5
    return [(ids if isinstance(ids, range) else np.array(ids, np.int64), quota) for ids, quota in pools]


def cut(rng, ids):
    """The same ids as a list of ranges and arrays, some of them empty."""
    places = sorted(rng.randrange(len(ids) + 1) for _ in range(rng.randint(1, 6)))
    pieces = [ids[first:last] for first, last in zip([0, *places], [*places, len(ids)], strict=True)]
    kinds = np.int32, np.int64, np.uint8
    fits = max(ids, default=0) < 256
    return [
        piece if rng.random() < 0.5 and isinstance(piece, range) else np.array(piece, rng.choice(kinds[: 2 + fits]))
        for piece in pieces
    ]


def total(pools):
    return sum(quota for _, quota in pools)


seeds = pytest.mark.parametrize("seed", range(25))


@seeds
def test_equals_the_twin(seed):
    rng = random.Random(seed)
    pools, world = some_pools(rng), rng.randint(1, 4)
    where = rng.randrange(total(pools) + 2), rng.randrange(60), rng.randrange(world), world
    key = rng.getrandbits(64), rng.getrandbits(32)
    np.testing.assert_array_equal(_C.order(pools, *key, *where), twin(pools, *key, *where))


@seeds
def test_segments_are_their_concatenation(seed):
    rng = random.Random(seed)
    pools = some_pools(rng)
    pieces = [(cut(rng, ids), quota) for ids, quota in pools]
    whole = _C.order(pools, seed, 1, 0, total(pools))
    np.testing.assert_array_equal(_C.order(pieces, seed, 1, 0, total(pools)), whole)
    np.testing.assert_array_equal(twin(pieces, seed, 1, 0, total(pools)), whole)


@seeds
def test_an_order_object_is_the_function(seed):
    rng = random.Random(seed)
    pools, where = some_pools(rng), (rng.randrange(50), rng.randrange(60), 1, 2)
    held = _C.Order([(np.array(ids), quota) for ids, quota in pools], seed, 4)  # nothing else keeps these arrays
    assert held.total == total(pools)
    np.testing.assert_array_equal(held.ids(*where), _C.order(pools, seed, 4, *where))


@seeds
def test_quotas_are_exact_and_draws_even(seed):
    """Every pool gives exactly its quota; none of its ids comes more than once more often than another."""
    pools = some_pools(random.Random(seed))
    drawn = Counter(_C.order(pools, seed, 1, 0, total(pools)).tolist())
    for ids, quota in pools:
        counts = [drawn.pop(int(i), 0) for i in ids]
        assert sum(counts) == quota
        assert not counts or max(counts) - min(counts) <= 1
    assert not drawn, "ids from no pool"


@seeds
def test_ranks_interleave_to_the_single_order(seed):
    rng = random.Random(seed)
    pools = some_pools(rng)
    whole = _C.order(pools, seed, 2, 0, total(pools))
    for world in (1, 2, 3, 64):
        merged = np.full(len(whole), -1)
        for rank in range(world):
            merged[rank::world] = _C.order(pools, seed, 2, 0, total(pools), rank, world)
        np.testing.assert_array_equal(merged, whole)


@seeds
def test_any_start_and_count_is_that_piece_of_the_order(seed):
    rng = random.Random(seed)
    pools, world = some_pools(rng), rng.randint(1, 3)
    rank, start, count = rng.randrange(world), rng.randrange(total(pools) + 5), rng.randrange(200)
    whole = _C.order(pools, seed, 3, 0, total(pools))
    positions = [p for p in range(start, min(start + count, len(whole))) if p % world == rank]
    np.testing.assert_array_equal(_C.order(pools, seed, 3, start, count, rank, world), whole[positions])


def test_resume_far_into_an_order_that_nobody_could_store():
    """4 * 10^18 positions: any place is reached at once, and neighbouring requests agree."""
    pools = [(range(10**18), 3 * 10**18), (range(10**18, 2 * 10**18), 10**18)]
    start = 3_999_999_999_999_999_000
    ids = _C.order(pools, 1, 2, start, 10**6)
    assert len(ids) == 1000 and ids.min() >= 0 and ids.max() < 2 * 10**18
    np.testing.assert_array_equal(_C.order(pools, 1, 2, start + 123, 77), ids[123:200])
    np.testing.assert_array_equal(twin(pools, 1, 2, start, 5), ids[:5])


def test_seed_epoch_and_pool_each_change_the_order():
    pools = [(range(100), 100), (range(100, 200), 100)]
    base = _C.order(pools, 1, 1, 0, 200)
    for seed, epoch in [(2, 1), (1, 2), (1 + (1 << 32), 1)]:
        assert (_C.order(pools, seed, epoch, 0, 200) != base).mean() > 0.9
    within = [base[base // 100 == pool] % 100 for pool in (0, 1)]
    assert (within[0] != within[1]).mean() > 0.9


@pytest.mark.parametrize("n", [2, 3, 4])
def test_small_pools_see_every_permutation_equally_often(n):
    epochs = 6000
    seen = Counter(tuple(_C.order([(range(n), n)], 0, epoch, 0, n)) for epoch in range(epochs))
    permutations = {2: 2, 3: 6, 4: 24}[n]
    assert len(seen) == permutations
    assert chisquare(list(seen.values())).pvalue > 1e-6


@pytest.mark.parametrize("n", [5, 10, 37])
def test_every_id_is_equally_likely_at_every_position(n):
    epochs = 200 * n
    orders = np.stack([_C.order([(range(n), n)], 7, epoch, 0, n) for epoch in range(epochs)])
    for position in (0, n // 2, n - 1):
        assert chisquare(np.bincount(orders[:, position], minlength=n)).pvalue > 1e-6
    follows = (orders[:, 1] - orders[:, 0]) % n  # a rotation would keep the distance of neighbours
    assert chisquare(np.bincount(follows, minlength=n)[1:]).pvalue > 1e-6


def test_passes_over_one_pool_are_shuffled_apart():
    ids = _C.order([(range(1000), 5000)], 0, 0, 0, 5000)
    halves = [np.bincount(half, minlength=1000) for half in (ids[:2500], ids[2500:])]
    assert abs(np.corrcoef(*halves)[0, 1] + 1) < 1e-9, "counts of the halves add up to five for every id"
    assert halves[0].std() > 0.5, "whole passes are not laid end to end"


@pytest.mark.parametrize("ids", [np.arange(6, dtype=np.int32), np.arange(12)[::2], [3, 1, 2], range(10, 0, -2)])
def test_ids_may_be_any_integers(ids):
    drawn = _C.order([(ids, len(ids))], 0, 0, 0, 100)
    assert drawn.dtype == np.int64
    assert sorted(drawn.tolist()) == sorted(int(i) for i in ids)


def test_nothing_to_draw():
    assert _C.order([], 0, 0, 0, 10).shape == (0,)
    assert _C.order([(range(0), 0), ([], 0), (range(5), 0)], 0, 0, 0, 10).shape == (0,)


GOOD = {"pools": [(range(3), 3)], "seed": 0, "epoch": 0, "start": 0, "count": 3, "rank": 0, "world": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pools": [(range(3), 3), (range(3), -2)]}, "pool 1: quota is -2"),
        ({"pools": [(range(0), 2)]}, "pool 0: a quota of 2 on an empty pool"),
        ({"pools": [(np.array([0.5]), 1)]}, "pool 0: ids must be .* float64"),
        ({"pools": [(np.zeros((2, 2), int), 1)]}, "pool 0: ids must be .*1-D"),
        ({"pools": [range(3)]}, r"pool 0: expected \(ids, quota\) or \(ids, quota, weights\)"),
        ({"pools": [([range(3), np.array([0.5])], 1)]}, "pool 0: ids must be .* float64"),
        ({"pools": [([range(0), range(0)], 2)]}, "pool 0: a quota of 2 on an empty pool"),
        ({"pools": [(range(2), 2**61), (range(2), 2**61 + 1)]}, r"pool 1: .* 2\^62"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": 2**32}, "epoch is 4294967296"),
        ({"start": -5}, "start is -5"),
        ({"count": -1}, "count is -1"),
        ({"rank": 2, "world": 2}, "rank is 2 of world 2"),
        ({"rank": -1}, "rank is -1"),
        ({"world": 0}, "rank is 0 of world 0"),
    ],
)
def test_errors_say_what_was_given(wrong, message):
    with pytest.raises(ValueError, match=message):
        _C.order(**GOOD | wrong)
