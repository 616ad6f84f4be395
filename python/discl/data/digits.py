"""scikit-learn's 1,797 handwritten digits become a long-tailed DataTable of 8x8 grey PNG files."""

import io
import os
import shutil
from pathlib import Path

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


def load(config) -> DataTable:
    """400 balanced test, 200 balanced val and 161 training images (50 down to 2 per class) below the root."""
    folder = Path(config.root or cache_folder()) / f"digits-lt-{SPLIT_SEED}"
    if not folder.is_dir():
        try:
            _write(folder)
        except OSError as error:
            raise DataError(f"data.root: the digits cannot be written below {folder.parent}: {error}") from error
    return scan(folder, CLASS_NAMES)


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


def _write(folder: Path) -> None:
    """All files appear at once, by a rename; whoever comes second finds them there."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for split, classes in split_rows(digits.target).items():
        for name, rows in zip(CLASS_NAMES, classes, strict=True):
            (unfinished / split / name).mkdir(parents=True)
            for row in rows:
                (unfinished / split / name / f"{row:04d}.png").write_bytes(_png(digits.images[row]))
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
