"""encode_image: pixels survive as the format promises; bytes are deterministic and marked as synthetic."""

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from discl.errors import StoreError
from discl.store import encode_image

FORMATS = pytest.mark.parametrize("format", ["jpg", "png", "webp"])


def photo(height=40, width=56):
    """Smooth, so that lossy formats stay near it."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, (x + y) * 2], -1).astype(np.uint8)


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


@FORMATS
def test_pixels_survive(format):
    for shape in [(40, 56), (1, 1), (7, 3)]:
        pixels = photo(*shape)
        found = decoded(encode_image(pixels, format, 95))
        assert found.shape == pixels.shape and found.dtype == np.uint8
        limit = {"png": 0, "jpg": 6, "webp": 12}[format]
        assert np.abs(found.astype(int) - pixels).max() <= limit


@FORMATS
def test_bytes_are_deterministic(format):
    pixels = photo()
    wide = np.concatenate([pixels, pixels], axis=1)
    assert encode_image(pixels, format, 80) == encode_image(wide[:, :56], format, 80), "a strided view is the same"


@FORMATS
def test_the_image_says_that_it_is_synthetic(format):
    with Image.open(io.BytesIO(encode_image(photo(), format))) as image:
        image.load()
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    wanted = b'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"'
    assert wanted in xmp


def test_xmp_is_well_formed():
    from xml.etree import ElementTree

    from discl.store.encode import XMP

    packet = ElementTree.fromstring(XMP.decode("utf-8-sig"))
    values = [
        value for node in packet.iter() for name, value in node.attrib.items() if name.endswith("DigitalSourceType")
    ]
    assert len(values) == 1


def test_jpeg_is_baseline_420_with_jfif_first():
    data = encode_image(photo(), "jpg", 90)
    with Image.open(io.BytesIO(data)) as image:
        assert JpegImagePlugin.get_sampling(image) == 2
        assert not image.info.get("progressive")
    assert data[2:4] == b"\xff\xe0" and data[6:10] == b"JFIF"


@pytest.mark.parametrize("format", ["jpg", "webp"])
def test_quality_trades_bytes(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(encode_image(noise, format, 30)) < len(encode_image(noise, format, 95))


@pytest.mark.parametrize(
    ("image", "format", "quality", "message"),
    [
        (photo(), "jpeg", 95, "format 'jpeg' is unknown; use one of jpg, png, webp"),
        (photo(), "jpg", 0, "quality is 0"),
        (photo(), "jpg", 101, "quality is 101"),
        (photo().astype(float), "jpg", 95, r"got float64 \[40, 56, 3\]"),
        (photo()[..., 0], "png", 95, r"got uint8 \[40, 56\]"),
        (np.zeros((0, 5, 3), np.uint8), "png", 95, r"\[0, 5, 3\]"),
    ],
)
def test_what_cannot_be_encoded(image, format, quality, message):
    with pytest.raises(StoreError, match=message):
        encode_image(image, format, quality)
