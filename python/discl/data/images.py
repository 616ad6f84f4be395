"""Image files of any kind become 8-bit RGB; bad ones are named with their reason before they cost much."""

import io
import logging
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from discl.data.table import DataTable
from discl.engine import pixels
from discl.engine.pixels import MAX_PIXELS
from discl.errors import DataError, RunFailed

log = logging.getLogger(__name__)

AT_ONCE = 64  # rows that a thread takes at a time: handing over one costs as much as looking at a small file
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def open_image(path: str | Path) -> Image.Image:
    """A file as an RGB image, upright by its EXIF tag. See `decode_image` for the errors."""
    try:
        with open(path, "rb") as file:
            return _decode(file, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def decode_image(data: bytes, name: str) -> Image.Image:
    """Encoded bytes as an RGB image, upright by its EXIF tag.

    The size in the header is checked first (at most 64 megapixels). 16-bit grey is scaled to 8 bits,
    transparency is laid over white, CMYK and palette images are converted. Raises DataError with `name` and
    the reason.
    """
    return _decode(io.BytesIO(data), name)


def _decode(file, name: str) -> Image.Image:
    image = _open_header(file, name)
    try:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image), name)
    except DataError:
        raise
    except Exception as error:  # PIL's plugins raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"{name}: the image is damaged: {error}") from error


def _open_header(file, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: the header announces more than {MAX_PIXELS} pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image of a known format") from error
    except Exception as error:  # the header itself is damaged: plugins raise what they like
        raise DataError(f"{name}: the image is damaged: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name}: the header announces {image.width} x {image.height} pixels, more than {MAX_PIXELS}; "
            "make it smaller or remove it"
        )
    return image


def image_size(path: str) -> tuple[int, int]:
    """Width and height in the header, as the file lies: EXIF may turn it. See `decode_image` for the errors."""
    try:
        with open(path, "rb") as file:
            return _open_header(file, path).size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Any PIL mode as RGB, as the engine reads it (`discl.engine.pixels`); DataError where that has no meaning."""
    try:
        return pixels.to_rgb(image)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error


def check_image(path: str) -> None:
    """Raise DataError unless the header is sound, small enough and the file ends as its format says.

    A file without its end mark is decoded to find out. Damage in a file that ends well shows when it is read.
    """
    try:
        with open(path, "rb") as file:
            image = _open_header(file, path)
            if image.width * image.height and _ends_properly(file, image.format):
                return
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    open_image(path)


def _ends_properly(file, format: str | None) -> bool:
    mark = END_MARKS.get(format or "")
    if mark is None or file.seek(0, io.SEEK_END) < len(mark):
        return False
    file.seek(-len(mark), io.SEEK_END)
    return file.read() == mark


class TooManyBad(RunFailed):
    """More images than allowed cannot be used: `bad` holds every (path, reason), of `images` in all."""

    def __init__(self, bad: list[tuple[str, str]], images: int, max_bad_share: float):
        super().__init__(
            f"{len(bad)} of {images} images cannot be used, above data.max_bad_share = {max_bad_share}; "
            f"repair or remove them, or raise the limit. The first: {bad[0][1]}"
        )
        self.bad, self.images = bad, images


def check_images(table: DataTable, max_bad_share: float, threads: int = 8) -> DataTable:
    """The table without its bad images: they move to `quarantined`.

    TooManyBad when bad images over all images of the table, of every split, exceed `max_bad_share`.
    """
    chunks = [slice(at, at + AT_ONCE) for at in range(0, len(table), AT_ONCE)]
    with ThreadPoolExecutor(threads) as pool:
        problems = pool.map(lambda part: list(map(_problem, table.paths[part], table.ids[part])), chunks)
        reasons = [reason for found in problems for reason in found]
    if table.places:
        reasons = [f"{why} ({table.places[row]})" if why else "" for row, why in enumerate(reasons)]
    bad = [(path, reason) for path, reason in zip(table.paths, reasons, strict=True) if reason]
    if not bad:
        return table
    for _, reason in bad:
        log.warning("quarantined %s", reason)
    if len(bad) > max_bad_share * len(table):
        raise TooManyBad(bad, len(table), max_bad_share)
    good = table.take([row for row, reason in enumerate(reasons) if not reason])
    return replace(good, quarantined=[*table.quarantined, *bad])


def _problem(path: str, name: str) -> str:
    if "\0" in path:
        return f"{path!r}: its name holds a NUL byte; correct the list"
    try:
        name.encode()
        check_image(path)
    except UnicodeEncodeError:
        return f"{readable(path)}: its name is not UTF-8; rename it"
    except DataError as error:
        return str(error)
    return ""


def readable(name: str) -> str:
    """A file name as it can be shown: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
