"""What a user asks of the engine (Request) and what the engine hands back (Sample)."""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from discl.engine.pixels import MAX_PIXELS, to_rgb
from discl.errors import DisclError

LEVELS = range(100)
OPTIONAL_TEXTS = ("class_name", "score_text")


@dataclass(frozen=True, eq=False)
class Request:
    """One wished image: a source, a prompt, an image-guidance level and a seed.

    image: PIL image of any mode, or uint8 array [H, W, 3]; size: (width, height) of the result, rounded down to the
    model's multiple as diffusers does, None for the image's own. level: image guidance in percent, 0..99 (paper 1.1).
    noise_seed: 32 bits, seeds posterior sample and noise. text_guidance: None for the engine's own.
    control: never rejected early, so that what rejection costs can be measured.
    score_text: the text to score against; None for the engine's score_prompt with class_name, else the prompt.
    class_name, source_id, key: the caller's own, handed back with the sample. Raises DisclError for a level, seed,
    image, text, guidance or size that is none.
    """

    image: Image.Image | np.ndarray
    prompt: str
    level: int
    noise_seed: int
    negative_prompt: str = ""
    class_name: str | None = None
    source_id: str | None = None
    key: str | None = None
    text_guidance: float | None = None
    score_text: str | None = None
    size: tuple[int, int] | None = None
    control: bool = False

    def __post_init__(self):
        if not _is_integer(self.level) or self.level not in LEVELS:
            raise DisclError(
                f"level={self.level!r} is not an image-guidance level: give an integer percent from 0 to 99 "
                "(100 is the real image and is never generated)"
            )
        if not _is_integer(self.noise_seed) or not 0 <= self.noise_seed < 2**32:
            raise DisclError(f"noise_seed={self.noise_seed!r} is not a 32-bit seed: give an integer in [0, 2**32)")
        _check_image(self.image)
        _check_text(prompt=self.prompt, negative_prompt=self.negative_prompt)
        _check_text(**{name: getattr(self, name) for name in OPTIONAL_TEXTS if getattr(self, name) is not None})
        check_guidance(self.text_guidance if self.text_guidance is not None else 1.0)
        # numpy integers are welcome; torch's generator and JSON want Python's own.
        object.__setattr__(self, "level", int(self.level))
        object.__setattr__(self, "noise_seed", int(self.noise_seed))
        object.__setattr__(self, "size", whole_pixels(self.size))

    def rgb(self) -> Image.Image:
        """The source as an RGB PIL image; raises what Pillow does when a lazily opened file cannot be decoded."""
        if isinstance(self.image, np.ndarray):
            return Image.fromarray(self.image)
        return to_rgb(self.image)


@dataclass(eq=False)
class Sample:
    """What became of a request.

    image: uint8 [H, W, 3], None unless status is "ok". embedding: float32 [D] of unit length, None without a scorer.
    text_score, image_score: cosines in [-1, 1]. status: "ok", "rejected-early", "nan" or "error", with a reason.
    slots: the engine's slots when it was made: fewer than asked for after an out-of-memory.
    rejected_at: steps done when early rejection said no, for control requests as well; None if it never did. trace:
    (steps done, features [F]) of what it judged.
    """

    request: Request
    image: np.ndarray | None = None
    embedding: np.ndarray | None = None
    text_score: float | None = None
    image_score: float | None = None
    status: str = "ok"
    reason: str = ""
    slots: int = 0
    rejected_at: int | None = None
    trace: list[tuple[int, np.ndarray]] = field(default_factory=list)

    @property
    def control(self) -> bool:
        """Whether the request was never to be rejected early."""
        return self.request.control


def check_guidance(value) -> None:
    """Text guidance is a finite number, one that a float64 can hold."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        finite = number and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        finite = False
    if not finite:
        raise DisclError(f"text_guidance={value!r} is not a finite number")


def _check_image(image) -> None:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DisclError(
                f"image is an array of {image.dtype} with shape {list(image.shape)}: "
                "give uint8 [height, width, 3], or a PIL image"
            )
    elif not isinstance(image, Image.Image):
        raise DisclError(f"image is a {type(image).__name__}: give a PIL image or a uint8 array [H, W, 3]")


def _check_text(**texts) -> None:
    for name, text in texts.items():
        if not isinstance(text, str):
            raise DisclError(f"{name}={text!r} is not text: give a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DisclError(f"{name}={text!r} is not valid Unicode: {error.reason}; decode it again") from error


def whole_pixels(size) -> tuple[int, int] | None:
    """A size, or None for not given: two whole numbers of at least 1, of no more than MAX_PIXELS together."""
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or not all(_is_integer(side) and side >= 1 for side in sides):
        raise DisclError(f"size={size!r} is not (width, height) in pixels")
    if sides[0] * sides[1] > MAX_PIXELS:
        raise DisclError(f"size={size!r} is more than {MAX_PIXELS:,} pixels: ask for a smaller image")
    return int(sides[0]), int(sides[1])


def _is_integer(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
