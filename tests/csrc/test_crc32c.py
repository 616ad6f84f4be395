"""CRC32C against published answers; the table version equals the one the CPU has."""

import random

import pytest

from discl import _C

# The check value of the catalogue, and RFC 3720 B.4.
KNOWN = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
]


@pytest.mark.parametrize("crc", [_C.crc32c, _C.crc32c_table])
@pytest.mark.parametrize(("data", "answer"), KNOWN)
def test_known_answers(crc, data, answer):
    assert crc(data) == answer


@pytest.mark.parametrize(
    "length", [*range(20), 63, 65, 511, 512, 513, 767, 768, 1000, 6143, 6144, 6145, 20_000, 100_003]
)
def test_table_equals_hardware_and_parts_chain(length):
    data = random.Random(length).randbytes(length)
    assert _C.crc32c_table(data) == _C.crc32c(data)
    for cut in {0, length // 3, length}:
        assert _C.crc32c(data[cut:], _C.crc32c(data[:cut])) == _C.crc32c(data)


def test_any_contiguous_buffer():
    data = b"123456789"
    assert _C.crc32c(bytearray(data)) == _C.crc32c(memoryview(data)) == 0xE3069283
    with pytest.raises(ValueError, match="not contiguous"):
        _C.crc32c(memoryview(data)[::2])
