"""uint8 HWC pixels in, encoded image bytes out: deterministic, and marked as synthetic (IPTC, in XMP)."""

import io
import os
from typing import IO, cast

import numpy as np
from PIL import Image, PngImagePlugin

from discl.errors import StoreError

FORMATS = ("jpg", "png", "webp")

XMP = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def encode_image(image: np.ndarray, format: str, quality: int = 95) -> bytes:
    """Encode uint8 [H, W, 3] as "jpg" (baseline, 4:2:0), "png" (ignores `quality`) or "webp" (lossy).

    Same pixels, same format and quality: same bytes, for one Pillow build. Raises StoreError for anything
    else.
    """
    if format not in FORMATS:
        raise StoreError(f"image format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise StoreError(f"expected a uint8 image [H, W, 3], got {image.dtype} {list(image.shape)}")
    if not 1 <= quality <= 100:
        raise StoreError(f"image quality is {quality}; it must lie in 1..100")
    return _ENCODERS[format](Image.fromarray(np.ascontiguousarray(image)), quality)


class _Memory:
    """A file in memory that the system knows. Calls that Pillow makes of a file cost the GIL where they need not."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        pass  # nothing is buffered

    def write(self, data: bytes) -> int:
        return os.write(self._descriptor, data)


def _jpg(image: Image.Image, quality: int) -> bytes:
    # To a file that the system knows, Pillow encodes without the GIL. Every system call lets go of it too and waits
    # for it afterwards, so there are few.
    descriptor = os.memfd_create("jpg")
    try:
        image.save(cast(IO[bytes], _Memory(descriptor)), "JPEG", quality=quality, subsampling="4:2:0")
        plain = os.pread(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR), 0)
    finally:
        os.close(descriptor)
    # Pillow's own xmp option is younger than the oldest Pillow we accept. APP1 goes behind JFIF's APP0.
    behind_app0 = 4 + int.from_bytes(plain[4:6], "big")
    payload = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    segment = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
    return b"".join([plain[:behind_app0], segment, plain[behind_app0:]])


def _png(image: Image.Image, quality: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return _saved(image, "PNG", pnginfo=info)


def _webp(image: Image.Image, quality: int) -> bytes:
    return _saved(image, "WEBP", quality=quality, method=4, xmp=XMP)


def _saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


_ENCODERS = {"jpg": _jpg, "png": _png, "webp": _webp}
