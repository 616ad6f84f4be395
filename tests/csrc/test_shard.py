"""Shards: stock readers read ours, ours reads tarfile's, and every byte that comes back is checked."""

import io
import tarfile
import warnings

import pytest

from discl import _C
from tests.csrc.shards import Pair, in_tar, key, samples


@pytest.fixture
def sealed(tmp_path):
    """Twelve samples in a finished tar: (path, the samples, their records)."""
    pair, given = Pair(tmp_path), samples(12)
    writer = pair.open()
    for sample in given:
        writer.append(*sample)
    records = writer.records()
    writer.finish()
    path = tmp_path / "000000.tar"
    pair.tar.rename(path)
    return path, given, records


def expected_members(given):
    pairs = [(sample[:3], (sample[0], "json", in_tar(sample))) for sample in given if sample[1]]
    return [(f"{k}.{ext}", data) for pair in pairs for k, ext, data in pair]


def test_tarfile_reads_ours(sealed):
    path, given, _ = sealed
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert [(m.name, tar.extractfile(m).read()) for m in members] == expected_members(given)
    facts = {(m.type, m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members}
    assert facts == {(tarfile.REGTYPE, 0o644, 0, 0, "", "", 0)}


def test_bytes_are_those_of_tarfile_itself(sealed):
    """Plain USTAR to the last bit: Python's writer makes the same file from the same members."""
    path, given, _ = sealed
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in expected_members(given):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    ours = path.read_bytes()
    assert ours == buffer.getvalue()[: len(ours)]
    assert not any(buffer.getvalue()[len(ours) :]), "tarfile pads with zeros to 10 KiB"


def test_ours_reads_tarfiles(tmp_path):
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, size in [("a.png", 0), ("b.json", 512), ("c.jpg", 700)]:
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(range(256)) * 3))
    members = _C.ShardReader(str(path)).members()
    assert members == [("a.png", 512, 0), ("b.json", 1024, 512), ("c.jpg", 2048, 700)]


def test_webdataset_reads_ours(sealed):
    path, given, _ = sealed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of that package's import
        import webdataset

        found = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [(s["__key__"], s["png"], s["json"]) for s in found] == [
        (*sample[:3:2], in_tar(sample)) for sample in given if sample[1]
    ]


def test_places_lead_to_the_images(sealed):
    path, given, records = sealed
    reader = _C.ShardReader(str(path))
    assert [(row, embedding) for row, embedding, _ in records] == [(s[4], s[5]) for s in given]
    for (_, ext, image, *_), (_, _, place) in zip(given, records, strict=True):
        assert (place is None) == (ext == "")
        if place:
            assert reader.read(*place) == image
            assert place[2] == _C.crc32c(image)


def test_a_place_outside_the_file(sealed):
    reader = _C.ShardReader(str(sealed[0]))
    for offset, length in [(reader.size, 1), (0, reader.size + 1), (1 << 63, 1), (1, (1 << 64) - 1)]:
        with pytest.raises(IndexError, match=rf"000000.tar at offset {offset}: {length} bytes reach past"):
            reader.read(offset, length, 0)


def test_a_changed_byte_is_not_handed_out(sealed):
    path, _, records = sealed
    offset, length, crc = records[1][2]
    data = bytearray(path.read_bytes())
    data[offset + length // 2] ^= 1
    path.write_bytes(data)
    message = rf"000000.tar at offset {offset}: CRC32C is \d+, the index says {crc}"
    with pytest.raises(RuntimeError, match=message):
        _C.ShardReader(str(path)).read(offset, length, crc)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.tar: cannot open"):
        _C.ShardReader(str(tmp_path / "none.tar"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1024], "ends without a footer"),
        (lambda data: data[:-1], "ends without a footer"),
        (lambda data: data + b"x", "bytes behind the footer"),
        (lambda data: data[:600], "reaches past|without a footer"),
        (lambda data: b"\x01" + data[1:], "checksum differs"),
        (lambda data: data[:124] + b"9" + data[125:], "checksum differs|not octal"),
        (lambda data: b"", "ends without a footer"),
    ],
)
def test_damaged_tars_are_named(sealed, damage, reason):
    path = sealed[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RuntimeError, match=rf"000000.tar at offset \d+: .*({reason})"):
        _C.ShardReader(str(path)).members()


def test_links_and_folders_are_refused(tmp_path):
    path = tmp_path / "link.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(key(0) + ".png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(RuntimeError, match="no plain USTAR file"):
        _C.ShardReader(str(path)).members()


def test_a_name_and_a_row_that_do_not_fit(tmp_path):
    writer = Pair(tmp_path).open()
    with pytest.raises(ValueError, match="does not fit a USTAR header"):
        writer.append("a" * 120, "png", b"x", 1, b"{}", b"")
    with pytest.raises(IndexError):
        writer.append(key(0), "png", b"x", 3, b"{}", b"")
    assert (writer.samples, writer.records()) == (0, [])
