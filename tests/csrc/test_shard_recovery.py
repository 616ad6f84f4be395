"""Recovery: whatever a crash left of the two files, the whole samples in front of it are kept.

The law behind each test: cut, garbage or flipped bits, then reopen, then append what is missing: both files
end as the bytes of a run that was never interrupted.
"""

import struct

import pytest

from tests.csrc.shards import Pair, samples

GIVEN = samples(7)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(tar bytes, journal bytes, [(journal end, tar end) after 0, 1, ... samples]), never interrupted."""
    pair = Pair(tmp_path_factory.mktemp("whole"))
    writer = pair.open()
    ends = [(8, 0)]
    for sample in GIVEN:
        writer.append(*sample)
        writer.flush()
        ends.append((pair.journal.stat().st_size, pair.tar.stat().st_size))
    return *pair.bytes(), ends


def recovers_to(pair: Pair, whole, kept: int) -> None:
    """Reopened, the pair holds `kept` samples; completed, it equals the uninterrupted one."""
    writer = pair.open()
    assert writer.samples == kept
    assert pair.tar.stat().st_size == whole[2][kept][1]
    assert [(row, embedding) for row, embedding, _ in writer.records()] == [s[4:] for s in GIVEN[:kept]]
    for sample in GIVEN[kept:]:
        writer.append(*sample)
    writer.flush()
    assert pair.bytes() == whole[:2]


def kept_by(whole, journal_end: int, tar_end: int) -> int:
    return max((i for i, (j, t) in enumerate(whole[2]) if j <= journal_end and t <= tar_end), default=0)


def test_journal_cut_in_header_record_payload_and_at_ends(tmp_path, whole):
    tar, journal, ends = whole
    near = {end + step for end, _ in ends for step in (-1, 0, 1, 55, 56, 57)}
    pair = Pair(tmp_path)
    for cut in sorted({*range(9), *range(0, len(journal), 13), *near} & set(range(len(journal) + 1))):
        pair.put(tar, journal[:cut])
        recovers_to(pair, whole, kept_by(whole, cut, len(tar)))


def test_tar_cut_in_header_data_padding_and_at_ends(tmp_path, whole):
    tar, journal, ends = whole
    cuts = {cut + step for _, end in ends for cut in (end, end + 512) for step in (-1, 0, 1, 100)}
    pair = Pair(tmp_path)
    for cut in sorted({cut for cut in cuts if 0 <= cut <= len(tar)} | set(range(0, len(tar), 97))):
        pair.put(tar[:cut], journal)
        recovers_to(pair, whole, kept_by(whole, len(journal), cut))


def test_any_flipped_journal_byte_ends_the_shard_there(tmp_path, whole):
    tar, journal, ends = whole
    pair = Pair(tmp_path)
    for at in range(8, len(journal), 5):
        pair.put(tar, journal[:at] + bytes([journal[at] ^ 0x10]) + journal[at + 1 :])
        recovers_to(pair, whole, sum(j <= at for j, _ in ends) - 1)


def test_any_flipped_tar_byte_ends_the_shard_there(tmp_path, whole):
    tar, journal, ends = whole
    pair = Pair(tmp_path)
    for at in range(0, len(tar), 103):
        pair.put(tar[:at] + bytes([tar[at] ^ 0x10]) + tar[at + 1 :], journal)
        kept = next(i for i, (_, end) in enumerate(ends) if end > at) - 1
        recovers_to(pair, whole, kept)


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\xff" * 5000, b"garbage", b"DSLR" * 99])
@pytest.mark.parametrize("samples_kept", [0, 3, 7])
def test_tails_behind_the_last_record(tmp_path, whole, tail, samples_kept):
    """Zero-filled (a file system that had grown the file), garbage, and look-alike record headers."""
    tar, journal, ends = whole
    pair = Pair(tmp_path)
    journal_end, tar_end = ends[samples_kept]
    for tar_tail, journal_tail in [(tail, b""), (b"", tail), (tail, tail)]:
        pair.put(tar[:tar_end] + tar_tail, journal[:journal_end] + journal_tail)
        recovers_to(pair, whole, samples_kept)


def test_one_file_is_missing(tmp_path, whole):
    pair = Pair(tmp_path)
    pair.put(*whole[:2])
    pair.tar.unlink()
    recovers_to(pair, whole, 0)
    pair.journal.unlink()
    recovers_to(pair, whole, 0)


def test_a_finished_tar_is_opened_and_continued(tmp_path, whole):
    pair = Pair(tmp_path)
    tar, journal, ends = whole
    pair.put(tar[: ends[4][1]], journal[: ends[4][0]])
    pair.open().finish()
    assert pair.tar.stat().st_size == ends[4][1] + 1024
    recovers_to(pair, whole, 4)


def test_a_huge_length_in_a_record_allocates_nothing(tmp_path, whole):
    tar, journal, _ = whole
    pair = Pair(tmp_path)
    pair.put(tar, journal[:16] + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + journal[24:])
    recovers_to(pair, whole, 0)


def test_a_newer_journal_is_left_alone(tmp_path, whole):
    pair = Pair(tmp_path)
    tar, journal, _ = whole
    newer = journal[:4] + struct.pack("<I", 2) + journal[8:]
    pair.put(tar, newer)
    with pytest.raises(RuntimeError, match="newer version, journal format 2; this one reads up to 1"):
        pair.open()
    assert pair.bytes() == (tar, newer)


def test_records_refuse_what_changed_after_writing(tmp_path, whole):
    """What is published at the end was read back, so a disk that lost a byte is found before sealing."""
    pair = Pair(tmp_path)
    pair.put(*whole[:2])
    writer = pair.open()
    with open(pair.tar, "r+b") as file:
        file.seek(700)
        file.write(b"\x77\x78")
    with pytest.raises(RuntimeError, match="sample 0 of 7 reads back other than it was written"):
        writer.records()
