"""Type faces in, 8x8 digits out: the only pictures the demo's generator and CLIP are trained on.

A digit's outline is taken from one of the faces that matplotlib ships, bent by a random affine map and a
smooth warp, drawn with a random stroke width, fitted to a square and box-shrunk to 8x8 with 17 grey levels,
which is how scikit-learn's handwritten digits were made. No handwriting is read here.
"""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from PIL import Image, ImageChops, ImageDraw

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GREY_LEVELS = 17
CANVAS = 64  # pixels per side before the shrink to 8x8

FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)


@cache
def outline(face: str, digit: int) -> tuple[np.ndarray, ...]:
    """Return a digit's closed contours, float64 [n, 2] each: y downwards, one unit high, centred on 0."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    path = TextPath((0, 0), str(digit), size=100, prop=FontProperties(fname=folder / f"{face}.ttf"))
    contours = [_dense(np.asarray(polygon)) for polygon in path.to_polygons()]
    points = np.concatenate(contours)
    low, high = points.min(0), points.max(0)
    return tuple((c - (low + high) / 2) * [1, -1] / (high[1] - low[1]) for c in contours)


def _dense(polygon: np.ndarray, spacing: float = 3.0) -> np.ndarray:
    """Put further points on long straight edges, so that a warp can bend them."""
    lengths = np.linalg.norm(np.diff(polygon, axis=0), axis=1)
    pieces = [
        np.linspace(start, end, max(1, int(length / spacing)), endpoint=False)
        for start, end, length in zip(polygon[:-1], polygon[1:], lengths, strict=True)
    ]
    return np.concatenate(pieces)


def bend(contours: tuple[np.ndarray, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Rotate, shear, stretch and smoothly warp the contours."""
    angle, shear = np.radians(rng.normal(0, 9)), rng.normal(-0.1, 0.2)
    stretch = np.exp(rng.normal(0, 0.18))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[stretch, shear], [0.0, 1.0]])
    waves = rng.normal(0, 3.5, (3, 2)), rng.uniform(0, 2 * np.pi, 3), rng.normal(0, 0.035, (3, 2))
    return [_warp(contour @ matrix.T, *waves) for contour in contours]


def _warp(points: np.ndarray, frequency: np.ndarray, phase: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    return points + np.sin(points @ frequency.T + phase) @ amplitude


def draw(contours: list[np.ndarray], stroke: float, height: float, width: float) -> np.ndarray:
    """Draw contours `height` high, squeezed to `width` if wider (shares of the canvas): bool [64, 64]."""
    points = np.concatenate(contours)
    low, high = points.min(0), points.max(0)
    room = CANVAS * np.array([width, height]) - stroke
    tall = room[1] / max(high[1] - low[1], 1e-6)
    scale = min(tall, room[0] / max(high[0] - low[0], 1e-6)), tall
    ink, edges = Image.new("1", (CANVAS, CANVAS)), Image.new("1", (CANVAS, CANVAS))
    for contour in contours:
        pixels = [tuple(p) for p in (contour - (low + high) / 2) * scale + CANVAS / 2]
        shape = Image.new("1", ink.size)
        ImageDraw.Draw(shape).polygon(pixels, fill=1)
        ink = ImageChops.logical_xor(ink, shape)  # a contour inside another one is a hole
        ImageDraw.Draw(edges).line([*pixels, pixels[0]], fill=1, width=round(stroke))
    return np.asarray(ImageChops.logical_or(ink, edges))


def shrink(ink: np.ndarray) -> np.ndarray:
    """Count ink in 8x8 boxes: bool [64, 64] -> uint8 [8, 8] of 0..16."""
    boxes = ink.reshape(8, CANVAS // 8, 8, CANVAS // 8).mean((1, 3))
    return np.rint(boxes * (GREY_LEVELS - 1)).astype(np.uint8)


def render(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one digit in a random face and shape: uint8 [8, 8] of 0..16."""
    face = FACES[rng.integers(len(FACES))]
    contours = bend(outline(face, digit), rng)
    return shrink(draw(contours, rng.uniform(0, 8), rng.uniform(0.9, 1.0), rng.uniform(0.6, 1.0)))


def corpus(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Render `count` digits, classes in turn: uint8 [count, 8, 8] of 0..16 and int64 [count] labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASS_NAMES)
    return np.stack([render(int(label), rng) for label in labels]), labels


def to_pixels(digits: np.ndarray) -> np.ndarray:
    """Turn grey levels 0..16 into uint8 0..255."""
    return np.rint(digits.astype(np.float64) * (255 / (GREY_LEVELS - 1))).astype(np.uint8)


def upscale(digits: np.ndarray, size: int) -> np.ndarray:
    """Enlarge [n, 8, 8] grey levels to uint8 [n, size, size] as diffusers does, with PIL's Lanczos."""
    large = [Image.fromarray(p).resize((size, size), Image.Resampling.LANCZOS) for p in to_pixels(digits)]
    return np.stack([np.asarray(image) for image in large])
