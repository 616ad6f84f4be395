"""What the store's writer keeps of rows: the quick look at their values, and embeddings rounded as numpy does."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from discl import _C
from tests.csrc.shards import Pair, key

TYPES = {
    "s": pa.string(),
    "i": pa.int32(),
    "l": pa.int64(),
    "f": pa.float32(),
    "b": pa.bool_(),
    "S": pa.list_(pa.string()),
    "-": pa.timestamp("us", tz="UTC"),
}
VALUES = [
    (None, "silfbS-"),
    *[(value, "s") for value in ("", "größe")],
    *[(value, "il") for value in (0, -1, 2**31 - 1, -(2**31))],
    *[(value, "l") for value in (2**31, -(2**31) - 1, 2**63 - 1, -(2**63))],
    *[(value, "f") for value in (0.5, float("inf"))],
    (True, "b"),
    *[(value, "S") for value in ([], ["a", "b"])],
    *[(value, "") for value in (2**63, -(2**63) - 1, 2**200, b"a", ["a", 1], [None], ("a",), {})],
    *[(value, "") for value in (np.int64(1), np.float32(1), np.bool_(True))],
]


@pytest.mark.parametrize(("value", "kinds"), VALUES, ids=repr)
def test_what_is_plain_is_what_arrow_gives_back(value, kinds):
    assert {kind for kind in TYPES if _C.is_plain({"x": value}, kind)} == set(kinds)
    for kind in kinds:
        assert pa.scalar(value, TYPES[kind]).as_py() == value


def test_rows_are_looked_at_in_order_and_to_the_end():
    assert _C.is_plain({"a": 1, "b": "x", "own": object()}, "is")
    assert not _C.is_plain({"a": 1, "b": 2}, "is")
    assert not _C.is_plain({"a": 1}, "is"), "a column lacks"


@pytest.mark.parametrize("value", [None, "", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "é" * 32, "é" * 16, b"0" * 32, 0])
def test_a_key_is_looked_at_letter_by_letter(value):
    assert _C.is_plain({"x": "0123456789abcdef" * 2}, "k")
    assert not _C.is_plain({"x": value}, "k")


def test_a_row_that_lacks_columns_or_fits_none_is_refused():
    with pytest.raises(ValueError, match="lacks columns"):
        _C.IndexColumns("is").append({"a": 1})
    for kind, value in [("s", 1), ("i", "1"), ("l", 0.5), ("f", "1"), ("t", "2020-01-01"), ("S", ("a",)), ("S", [1])]:
        with pytest.raises(TypeError):
            _C.IndexColumns(kind).append({"a": value})


def halves(values: np.ndarray, folder) -> np.ndarray:
    writer = Pair(folder).open()
    writer.append(key(0), "", b"", 0, b"{}", values)
    return writer.embeddings().view(np.float16)


@pytest.mark.parametrize("ends", [0, 3])  # eight at a time, and what is left over
def test_floats_are_rounded_as_numpy_rounds_them(tmp_path, ends):
    """Every half, every middle between two, and their neighbours, both signs."""
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = ((half[:-1] + half[1:]) / 2).astype(np.float32)
    near = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([half.astype(np.float32), middle, *near, [np.inf, np.nan, 65520, 1e30, 1e-40]]).astype(
        np.float32
    )
    values = np.concatenate([values, -values])
    values = values[: len(values) // 8 * 8 - ends]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    found = halves(values, tmp_path)
    assert np.array_equal(found, expected, equal_nan=True)
    for value, wanted in zip(
        values[::997], expected[::997], strict=True
    ):  # alone: as a CPU without the instruction does
        (tmp_path / "0.journal").unlink()
        assert np.array_equal(halves(np.array([value]), tmp_path), [wanted], equal_nan=True)


def test_rows_and_embeddings_are_kept_in_order_and_survive(tmp_path):
    pair, vectors = Pair(tmp_path), np.random.default_rng(0).standard_normal((5, 6)).astype(np.float16)
    writer = pair.open()
    assert (len(writer.rows()), len(writer.embeddings()), writer.embedding_bytes) == (0, 0, 0)
    for i in range(7):  # the first and the last have none
        writer.append(key(i), "", b"", 0, b"row %d" % i, vectors[i - 1] if 0 < i < 6 else b"")
    with pytest.raises(ValueError, match="an embedding of 4 bytes among those of 12"):
        writer.append(key(7), "", b"", 0, b"row", vectors[0, :2].copy())
    missing = np.full((1, 6), np.nan, np.float16)
    for found in (writer, (writer.close(), pair.open())[1]):
        assert found.rows().tobytes() == b"".join(b"row %d\n" % i for i in range(7))
        assert (found.embedding_bytes, found.samples) == (12, 7)
        stacked = found.embeddings().view(np.float16).reshape(7, 6)
        assert np.array_equal(stacked, np.concatenate([missing, vectors, missing]), equal_nan=True)


def test_images_are_let_go_of_when_they_are_written(tmp_path):
    """A long image is written from where it lies: it must stay there so long, and no longer."""
    writer, image = Pair(tmp_path).open(), bytes(range(256)) * 100
    before = sys.getrefcount(image)
    for i in range(5):
        writer.append(key(i), "png", image, 1, b"{}", b"")
    writer.flush()
    writer.append(key(5), "", b"", 0, b"{}", b"")
    assert sys.getrefcount(image) == before
    assert writer.records()[3][2][2] == _C.crc32c(image)
