"""Dataset rows in, encoded image bytes that any decoder takes out; bad images are replaced and counted."""

import io
import logging

import numpy as np
from PIL import Image

from discl.data.images import decode_image
from discl.errors import DataError, RunFailed, StoreError

log = logging.getLogger(__name__)

CACHE_BYTES = 64 << 20  # small data sets are read from disk once; large ones through the page cache
MAX_SIDE = 16_384
PLAIN_FORMATS, PLAIN_MODES = {"JPEG", "PNG", "WEBP"}, {"L", "RGB"}


class EncodedReader:
    """Reads rows of a SpectrumDataset. An image that cannot be used is replaced by the next good row (cyclic)
    of its class and level, whenever the damage was found. `bad`: rows and reasons.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.bad: dict[int, str] = {}
        self._cache: dict[int, np.ndarray] = {}
        self._room = CACHE_BYTES

    def read(self, row: int) -> tuple[int, np.ndarray]:
        """The row that was used and its file, uint8 [bytes]: 8-bit grey or RGB. RunFailed: none is left."""
        while True:
            if row in self.bad:
                row = self._substitute(row)
            if row in self._cache:
                return row, self._cache[row]
            try:
                return row, self._keep(row, self._plain(row))
            except (DataError, StoreError) as error:
                self.reject(row, str(error))

    def reject(self, row: int, reason: str) -> None:
        """Never use this row again."""
        log.warning("row %d is replaced: %s", row, reason)
        self.bad[row] = reason
        self._cache.pop(row, None)

    def reject_undecodable(self, rows) -> int:
        """Find the damaged rows with PIL after a decoder failed. Returns how many were found."""
        before = len(self.bad)
        for row in sorted({int(row) for row in rows} - set(self.bad)):
            try:
                decode_image(self.dataset.encoded(row), str(self.dataset.ids[row]))
            except (DataError, StoreError) as error:
                self.reject(row, str(error))
        return len(self.bad) - before

    def _keep(self, row: int, data: np.ndarray) -> np.ndarray:
        if data.nbytes <= self._room:
            self._room -= data.nbytes
            self._cache[row] = data
        return data

    def _plain(self, row: int) -> np.ndarray:
        """Files of the plain kinds as they are; others are decoded and become PNG."""
        data = self.dataset.encoded(row)
        if not _is_plain(data):
            buffer = io.BytesIO()
            decode_image(data, str(self.dataset.ids[row])).save(buffer, "PNG", compress_level=1)
            data = buffer.getvalue()
        return np.frombuffer(data, dtype=np.uint8)

    def _substitute(self, row: int) -> int:
        dataset = self.dataset
        same = (dataset.labels == dataset.labels[row]) & (dataset.levels == dataset.levels[row])
        good = [other for other in np.flatnonzero(same) if other not in self.bad]
        if not good:
            name = dataset.class_names[dataset.labels[row]]
            raise RunFailed(
                f"no usable image of class {name!r} at level {dataset.levels[row]} is left: {self.bad[row]}"
            )
        return int(good[np.searchsorted(good, row) % len(good)])


def _is_plain(data: bytes) -> bool:
    """Header only. A header that cannot be parsed is not plain, so that the full decode names the reason."""
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:
        return False
    upright = image.getexif().get(0x0112, 1) == 1 if image.format != "PNG" else "exif" not in image.info
    small = max(image.size) <= MAX_SIDE
    plain = image.format in PLAIN_FORMATS and image.mode in PLAIN_MODES
    return small and upright and plain and "transparency" not in image.info
