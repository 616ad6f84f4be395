"""Dataset rows in, encoded image bytes that any decoder takes out: read ahead by C++ threads, damage replaced."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from discl._C import Batch, BatchReader, image_header
from discl.data.images import decode_image
from discl.errors import DataError, StoreError

HELD_BYTES = 64 << 20  # of images that had to be converted
OPEN_SHARDS = 256


class Wish(NamedTuple):
    asked: np.ndarray  # rows
    used: np.ndarray  # the rows that are read for them
    batch: Batch


class EncodedReader:
    """Reads rows of a SpectrumDataset, batch after batch: `ask` for some batches ahead, `take` them in that order.

    Images that decoders disagree about (CMYK, palettes, transparency, 16 bits, ...) are decoded here and handed on
    as PPM. What cannot be read or decoded is replaced (see Substitutes). Belongs to one process.
    """

    def __init__(self, dataset, threads: int = 2):
        self.dataset, self.substitutes = dataset, dataset.substitutes
        self.process = os.getpid()
        self._reader = BatchReader(max(threads, 1), OPEN_SHARDS)
        self._helpers = ThreadPoolExecutor(max(threads, 1))
        self._asked: deque[Wish] = deque()
        self._held: dict[int, np.ndarray] = {}
        self._refused: set[int] = set()  # rows that a decoder may not take, although PIL does
        self._room = HELD_BYTES

    def ask(self, rows: np.ndarray) -> None:
        """Start to read a batch."""
        used = np.array([self.substitutes.of(row) for row in rows.tolist()], dtype=np.int64)
        self._asked.append(Wish(rows, used, self._reader.submit(*self.dataset.places(used))))

    def forget(self) -> None:
        """Drop what was asked for and not taken."""
        self._asked.clear()

    def take(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """The oldest batch asked for: rows asked for, rows that were used for them, their files, uint8 [bytes] each.

        Files share the memory of their batch, which serves a later one when all of them are gone.
        """
        asked, used, batch = self._asked.popleft()
        files: list = batch.images()
        # What could not be read is tried once more, and rejected then.
        rest = np.flatnonzero(~batch.plain | np.isin(used, list(self._refused))).tolist()
        for place, (row, data) in zip(rest, self._helpers.map(self._serve, asked[rest].tolist()), strict=True):
            used[place], files[place] = row, data
        return asked, used, files

    def reject_undecodable(self, rows) -> int:
        """Find the damaged rows with PIL after a decoder failed; where it takes all, it decodes them from then on.

        Returns how many rows will come in another way than they did.
        """
        rows, before = {int(row) for row in rows}, len(self.substitutes.bad)
        for row in rows:
            self.dataset.decoded(row)
        found = len(self.substitutes.bad) - before
        if found:
            return found
        new = rows - self._refused
        self._refused |= new
        return len(new)

    def _serve(self, asked: int) -> tuple[int, np.ndarray]:
        """The row that serves for `asked`, and a file that every decoder shows alike."""
        while True:
            row = self.substitutes.of(asked)
            if row in self._held:
                return row, self._held[row]
            try:
                return row, self._plain(row)
            except (DataError, StoreError) as error:
                self.substitutes.reject(row, str(error))

    def _plain(self, row: int) -> np.ndarray:
        data = self.dataset.encoded(row)
        if image_header(data)[2] and row not in self._refused:
            return np.frombuffer(data, dtype=np.uint8)
        image = decode_image(data, self.dataset.names([row])[0])
        out = np.frombuffer(b"P6 %d %d 255\n" % image.size + image.tobytes(), dtype=np.uint8)
        if out.nbytes <= self._room:
            self._room -= out.nbytes
            self._held[row] = out
        return out
