"""scikit-learn's 1,797 handwritten digits become a DataTable of 8x8 grey PNG files: long-tailed, or partly spoilt."""

import io
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from discl.cache_folder import cache_folder
from discl.data.imagefolder import scan
from discl.data.table import DataTable
from discl.errors import DataError

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_PER_CLASS, VAL_PER_CLASS = 40, 20
MOST, LEAST = 50, 2
SPLIT_SEED = 0
LQ_TRAIN, LQ_SHARE = 30, 0.4  # images per class, and the share of them that is spoilt
Pictures = Iterable[tuple[str, int, int, np.ndarray]]  # split, label, row, values 0..16


def load(config) -> DataTable:
    """400 balanced test, 200 balanced val and 161 training images (50 down to 2 per class) below the root."""
    return scan(_made(config, "digits-lt", _pictures), CLASS_NAMES)


def load_low_quality(config) -> DataTable:
    """300 training images, 30 of a class, 12 of them blurred, noisy or of low contrast; 200 and 400 held out like them
    (id_val, id_test), and the same held-out images all spoilt (val, test)."""
    return scan(_made(config, "digits-lq", _spoilt_pictures), CLASS_NAMES)


def _made(config, kind: str, pictures: Callable[[np.ndarray, np.ndarray], Pictures]) -> Path:
    folder = Path(config.root or cache_folder()) / f"{kind}-{SPLIT_SEED}"
    if not folder.is_dir():
        try:
            _write(folder, pictures)
        except OSError as error:
            raise DataError(f"data.root: the digits cannot be written below {folder.parent}: {error}") from error
    return folder


def train_count(label: int) -> int:
    """Images of a class in the training split: exponential from 50 to 2."""
    return round(MOST * (LEAST / MOST) ** (label / (len(CLASS_NAMES) - 1)))


def split_rows(labels: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Rows of scikit-learn's table per split and class, by a fixed seed. The rest stays unused."""
    random = np.random.default_rng(SPLIT_SEED)
    splits: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
    held_out = TEST_PER_CLASS + VAL_PER_CLASS
    for label in range(len(CLASS_NAMES)):
        rows = random.permutation(np.flatnonzero(labels == label))
        splits["test"].append(rows[:TEST_PER_CLASS])
        splits["val"].append(rows[TEST_PER_CLASS:held_out])
        splits["train"].append(rows[held_out : held_out + train_count(label)])
    return splits


def _pictures(images: np.ndarray, labels: np.ndarray) -> Pictures:
    for split, classes in split_rows(labels).items():
        for label, rows in enumerate(classes):
            yield from ((split, label, int(row), images[row]) for row in rows)


def _spoilt_pictures(images: np.ndarray, labels: np.ndarray) -> Pictures:
    """The same held-out rows; training rows are the first of the others."""
    random = np.random.default_rng(SPLIT_SEED)
    for label in range(len(CLASS_NAMES)):
        rows = random.permutation(np.flatnonzero(labels == label)).tolist()
        ends = (0, TEST_PER_CLASS, TEST_PER_CLASS + VAL_PER_CLASS, TEST_PER_CLASS + VAL_PER_CLASS + LQ_TRAIN)
        for split, first, last in zip(("id_test", "id_val", "train"), ends, ends[1:], strict=False):
            for place, row in enumerate(rows[first:last]):
                bad = spoilt(images[row], np.random.default_rng([SPLIT_SEED, row]))
                yield split, label, row, bad if place < LQ_SHARE * (last - first) else images[row]
                if split != "train":
                    yield split.removeprefix("id_"), label, row, bad


def spoilt(image: Any, random: np.random.Generator) -> np.ndarray:
    """Values 0..16, float [8, 8]: one or two of blur, low contrast and noise."""
    harms = random.choice(["blur", "contrast", "noise"], random.integers(1, 3), replace=False)
    if "blur" in harms:
        padded = np.pad(image, 1, mode="edge")
        image = sum(padded[y : y + 8, x : x + 8] for y in range(3) for x in range(3)) / 9
    if "contrast" in harms:
        image = 5 + 0.3 * image
    if "noise" in harms:
        image = image + random.normal(0, 3.5, image.shape)
    return np.clip(image, 0, 16)


def _write(folder: Path, pictures: Callable[[np.ndarray, np.ndarray], Pictures]) -> None:
    """All files appear at once, by a rename; whoever comes second finds them there."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for split, label, row, image in pictures(digits.images, digits.target):
        file = unfinished / split / CLASS_NAMES[label] / f"{row:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_png(image))
    try:
        os.rename(unfinished, folder)
    except OSError:
        shutil.rmtree(unfinished)
        if not folder.is_dir():
            raise


def _png(pixels: np.ndarray) -> bytes:
    """8x8 values 0..16 as an 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
