"""Philox against Random123's published known answers, and the draws made from it."""

import numpy as np
import pytest

from discl import _C

# Random123, tests/kat_vectors, "philox4x32 10": counter, key, output.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    assert _C.philox4x32(counter, key) == answer


def test_a_draw_is_the_block_of_its_position_epoch_and_seed():
    seed, epoch, positions = 0x1122334455667788, 9, np.array([0, 1, 7 + (3 << 32)])
    blocks = [_C.philox4x32([int(p) & 0xFFFFFFFF, int(p) >> 32, epoch, 0], [0x55667788, 0x11223344]) for p in positions]
    draws = _C.philox(seed, epoch, positions)
    assert draws.dtype == np.uint32
    np.testing.assert_array_equal(draws, blocks)


def test_draws_do_not_depend_on_their_neighbours():
    alone = np.concatenate([_C.philox(3, 4, [position]) for position in range(20)])
    np.testing.assert_array_equal(_C.philox(3, 4, range(20)), alone)


def test_no_positions_no_draws():
    assert _C.philox(0, 0, []).shape == (0, 4)


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 32)])
def test_seed_and_epoch_outside_their_range(seed, epoch):
    with pytest.raises(ValueError, match="it must be in"):
        _C.philox(seed, epoch, range(1))
