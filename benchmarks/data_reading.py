"""Contestants of reading: GB/s over shuffled records of 20 kB in page cache, into bytes that Python can use."""

import subprocess
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from discl._C import BatchReader, crc32c

BYTES, BATCH, AHEAD = 20_000, 128, 2
KEPT = (2 * AHEAD + 1) * BATCH  # records that are being read, wait, or are held
SOURCE = Path(__file__).with_name("read_records.c")


def contest(folder: Path, records: int) -> dict[str, Callable[[], float]]:
    program, one, many = folder / "read_records", folder / "records", folder / "files"
    subprocess.run(["cc", "-O2", "-pthread", str(SOURCE), "-o", str(program)], check=True)
    images = np.random.default_rng(0).integers(0, 256, (records, BYTES), np.uint8)
    one.write_bytes(images.tobytes())
    many.mkdir()
    for number, image in enumerate(images):
        (many / str(number)).write_bytes(image.tobytes())
    crcs = np.array([crc32c(image.tobytes()) for image in images], np.int64)

    def peer(how: str, where: Path, threads: int, kept: int = 1) -> float:
        command = [str(program), how, *map(str, (where, records, BYTES, threads, kept))]
        seconds = float(subprocess.run(command, check=True, capture_output=True).stdout)
        return records * BYTES / seconds / 1e9

    names = [str(many / str(number)) for number in range(records)]
    contestants: dict[str, Callable[[], float]] = {}
    for threads in (1, 2):
        name = f"{threads} thread{'s' * (threads > 1)}"
        reading = Reading(threads, crcs)
        contestants |= {
            f"shards, {name}": partial(reading.rate, [str(one)], whole=False),
            f"files, {name}": partial(reading.rate, names, whole=True),
            f"C pread, {name}": partial(peer, "pread", one, threads),
            f"C pread, {name}, kept": partial(peer, "pread", one, threads, KEPT // threads),
            f"C open, {name}": partial(peer, "open", many, threads),
        }
    for contestant in contestants.values():
        contestant()
    return contestants


class Reading:
    """Batches as the loader asks for them: two ahead, each kept until the next but one."""

    def __init__(self, threads: int, crcs: np.ndarray) -> None:
        self.reader, self.crcs = BatchReader(threads), crcs
        self.order = np.random.default_rng(1).permutation(len(crcs))

    def rate(self, files: list[str], whole: bool) -> float:
        begin, asked, kept, seen = time.perf_counter(), deque(), deque(maxlen=AHEAD), 0
        for first in range(0, len(self.order), BATCH):
            asked.append(self.submit(files, self.order[first : first + BATCH], whole))
            if len(asked) > AHEAD:
                kept.append(asked.popleft().images())
                seen += sum(image.nbytes for image in kept[-1])
        seen += sum(image.nbytes for batch in asked for image in batch.images())
        assert seen == len(self.order) * BYTES
        return seen / (time.perf_counter() - begin) / 1e9

    def submit(self, files: list[str], records: np.ndarray, whole: bool):
        zeros = np.zeros(len(records), np.int64)
        if whole:
            return self.reader.submit([files[n] for n in records], np.arange(len(records)), zeros, zeros - 1, zeros)
        return self.reader.submit(files, zeros, records * BYTES, zeros + BYTES, self.crcs[records])
