"""Keys against a Python dict: membership, numbering and growth, also for keys that are no digests."""

import random

import numpy as np
import pyarrow as pa
import pytest

from discl.errors import StoreError
from discl.store.keys import Keys


def drawn(rng: random.Random, count: int) -> list[str]:
    """A third digests, a third counters, a third that differ in the upper half only."""
    kinds = [lambda i: rng.getrandbits(128), lambda i: i, lambda i: i << 64]
    return [f"{kinds[i % 3](i):032x}" for i in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_like_a_dict_that_keeps_its_order(seed):
    rng = random.Random(seed)
    given = drawn(rng, 5000)
    given += rng.choices(given, k=2000)
    keys, expected = Keys(), {}
    for key in given:
        assert keys.add(key) == (key not in expected), (seed, key)
        expected.setdefault(key, len(expected))
    assert list(keys) == list(expected) and len(keys) == len(expected)
    others = [f"{rng.getrandbits(128):032x}" for _ in range(1000)]
    assert keys.numbers([*expected, *others]).tolist() == [*expected.values(), *[-1] * 1000]
    assert all(key in keys for key in expected) and not any(key in keys for key in others)


@pytest.mark.parametrize("count", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_a_column_at_once(count):
    column = pa.array([f"{i * i:032x}" for i in range(count)], pa.string())
    keys = Keys()
    assert keys.add_column(column) == count
    assert keys.add_column(column.slice(count // 2)) == 0
    assert len(keys) == count
    np.testing.assert_array_equal(keys.numbers(column.slice(count // 3)), np.arange(count // 3, count))


def test_like_a_set():
    keys = Keys([f"{i:032x}" for i in range(5)])
    assert keys == {f"{i:032x}" for i in range(5)}
    assert keys >= {f"{0:032x}"} and not keys >= {f"{9:032x}"}
    assert keys & {f"{0:032x}"} == {f"{0:032x}"}
    assert bool(keys) and not Keys()


def test_the_zero_key_is_a_key():
    keys = Keys()
    assert "0" * 32 not in keys
    assert keys.add("0" * 32) and "0" * 32 in keys


@pytest.mark.parametrize("key", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "é" * 16])
def test_what_is_no_key(key):
    keys = Keys()
    assert key not in keys
    with pytest.raises(ValueError, match="is not 32 lowercase hex"):
        keys.add(key)
    with pytest.raises(StoreError, match="key"):
        keys.add_column(pa.array(["0" * 32, key]))
    with pytest.raises(StoreError, match="a key is null"):
        keys.add_column(pa.array(["0" * 32, None]))
