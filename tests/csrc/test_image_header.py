"""Image headers against PIL: plain means that PIL too sees an opaque 8-bit image of that size, turned by EXIF alone."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from discl import _C
from discl.engine.pixels import to_rgb

NOISE = np.random.default_rng(0).integers(0, 256, (13, 21, 4), dtype=np.uint8)
COLOUR = Image.fromarray(NOISE[..., :3])
GREY = COLOUR.convert("L")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int, big: bool = False) -> bytes:
    order = ">" if big else "<"
    entries = [(0x010F, 2, 1, b"x\0\0\0"), (0x0112, 3, 1, struct.pack(order + "HH", orientation, 0))]
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    head = (b"MM" if big else b"II") + struct.pack(order + "HI", 42, 8)
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries)) + body + bytes(4)


def xmp(extra: str = "") -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf {extra} Iptc4xmpExt="trainedAlgorithmicMedia"/></x:xmpmeta>'.encode()
    )


def png_text(text: bytes) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text.decode())
    return info


def many_channels(mode: str) -> Image.Image:
    return Image.fromarray(NOISE, "RGBA").convert(mode)


PLAIN = {
    "jpeg": encoded(COLOUR, "JPEG"),
    "grey jpeg": encoded(GREY, "JPEG"),
    "progressive": encoded(COLOUR, "JPEG", progressive=True, subsampling=0),
    "jpeg upright": encoded(COLOUR, "JPEG", exif=exif(1)),
    "jpeg upright, big-endian": encoded(COLOUR, "JPEG", exif=exif(1, big=True)),
    "turned jpeg": encoded(COLOUR, "JPEG", exif=exif(6)),
    "turned jpeg, big-endian": encoded(COLOUR, "JPEG", exif=exif(6, big=True)),
    "jpeg with xmp": encoded(COLOUR, "JPEG", xmp=xmp()),
    "jpeg with icc": encoded(COLOUR, "JPEG", icc_profile=b"profile" * 20),
    "png": encoded(COLOUR, "PNG"),
    "grey png": encoded(GREY, "PNG"),
    "png with xmp": encoded(COLOUR, "PNG", pnginfo=png_text(xmp())),
    "webp": encoded(COLOUR, "WEBP"),
    "lossless webp": encoded(COLOUR, "WEBP", lossless=True),
    "webp with xmp": encoded(COLOUR, "WEBP", xmp=xmp()),
}
SEGMENT = b"\xff\xe1" + struct.pack(">H", len(exif(6)) + 2) + exif(6)
TWICE = exif(6).replace(b"\x02\0\x0f\x01", b"\x02\0\x12\x01").replace(b"\x02\0\x01\0\0\0x", b"\x03\0\x01\0\0\0\x03")
TURNED = xmp('tiff:Orientation="6"')
OTHERS = {
    "jpeg turned in an odd way": encoded(COLOUR, "JPEG", exif=exif(6).replace(b"\x12\x01\x03", b"\x12\x01\x04")),
    "jpeg with two exif segments": encoded(COLOUR, "JPEG", exif=exif(3)).replace(b"\xff\xd8", b"\xff\xd8" + SEGMENT, 1),
    "jpeg with two orientations": encoded(COLOUR, "JPEG", exif=TWICE),
    "turned by xmp": encoded(COLOUR, "JPEG", xmp=TURNED),
    "cmyk": encoded(COLOUR.convert("CMYK"), "JPEG"),
    "rgb jpeg": encoded(COLOUR, "JPEG", keep_rgb=True),
    "palette": encoded(COLOUR.convert("P"), "PNG"),
    "transparent": encoded(many_channels("RGBA"), "PNG"),
    "grey and alpha": encoded(many_channels("LA"), "PNG"),
    "transparent colour": encoded(COLOUR, "PNG", transparency=(1, 2, 3)),
    "two tones": encoded(GREY.convert("1"), "PNG"),
    "sixteen bits": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG"),
    "turned png": encoded(COLOUR, "PNG", exif=exif(6)[6:]),
    "png turned by xmp": encoded(COLOUR, "PNG", pnginfo=png_text(TURNED)),
    "transparent webp": encoded(many_channels("RGBA"), "WEBP"),
    "transparent lossless webp": encoded(many_channels("RGBA"), "WEBP", lossless=True),
    "turned webp": encoded(COLOUR, "WEBP", exif=exif(6)),
    "animation": encoded(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(180)]),
    "bmp": encoded(COLOUR, "BMP"),
    "gif": encoded(COLOUR, "GIF"),
    "nothing": b"",
    "text": b"no image",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_images(name):
    assert _C.image_header(PLAIN[name]) == (21, 13, True)


@pytest.mark.parametrize("name", OTHERS)
def test_images_that_need_care(name):
    assert not _C.image_header(OTHERS[name])[2]


def as_pil_sees(data: bytes):
    """Size, and whether nothing but decoding is needed."""
    with Image.open(io.BytesIO(data)) as image:
        small = image.width * image.height <= 64_000_000
        simple = image.mode in ("L", "RGB") and "transparency" not in image.info
        own = Image.Exif()
        own.load(image.info.get("exif", b"") if image.format == "JPEG" else b"")
        return image.size, small and simple and image.getexif().get(0x0112, 1) == own.get(0x0112, 1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", PLAIN)
def test_damaged_headers_are_never_taken_for_plain_ones(name, seed):
    """Where PIL reads the damaged header at all, it agrees; and nothing is read past the end (see the ASan run)."""
    rng = random.Random(f"{name} {seed}")
    data = bytearray(PLAIN[name])
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(min(len(data), 80))] = rng.randrange(256)
    damaged = bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
    width, height, plain = _C.image_header(damaged)
    if plain:
        try:
            seen = as_pil_sees(damaged)
        except Exception:
            return  # decoding will fail too
        assert seen == ((width, height), True), damaged[:80].hex()


def test_a_header_that_announces_too_much():
    for side, plain in [(8000, True), (8001, False), (16_384, False)]:
        data = bytearray(PLAIN["png"])
        data[16:24] = struct.pack(">II", side, 8000)
        assert _C.image_header(bytes(data)) == (side, 8000, plain)


def test_pixels_of_plain_images_need_no_more_than_decoding():
    for name, data in PLAIN.items():
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB"))), name
