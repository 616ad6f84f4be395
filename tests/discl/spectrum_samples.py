"""A small data table and store of real PNG files: colours tell class and level."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from discl.data import DataTable
from discl.store import Store, StoreWriter

CLASS_NAMES = ("many", "a/b ü")
LEVELS = (0, 50)


def png(color, size=(12, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, tuple(int(value) for value in color)).save(buffer, "PNG")
    return buffer.getvalue()


def key(number: int) -> str:
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).hexdigest()


def make_table(folder: Path, counts=(24, 4), held_out=3) -> DataTable:
    """Training images of both classes, then `held_out` test images of each; red = class, green = number."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("train", label, n) for label, count in enumerate(counts) for n in range(count)]
    rows += [("test", label, 100 + n) for label in range(len(counts)) for n in range(held_out)]
    ids = [f"{split}-{label}-{n}.png" for split, label, n in rows]
    for name, (_, label, n) in zip(ids, rows, strict=True):
        (folder / name).write_bytes(png((200 * label, n, 0)))
    paths = [str(folder / name) for name in ids]
    labels = np.array([label for _, label, _ in rows], dtype=np.int64)
    return DataTable(ids, paths, labels, [split for split, _, _ in rows], CLASS_NAMES)


def make_store(folder: Path, per_level=6, class_name=CLASS_NAMES[1]) -> Store:
    """`per_level` accepted images of class 1 at each level, and one that is stored but not selected."""
    samples = [(key(i), LEVELS[i % 2]) for i in range(2 * per_level + 1)]
    with StoreWriter(folder, "run", shard_bytes=1 << 20) as writer:
        for number, (name, level) in enumerate(samples):
            row = {"key": name, "source_id": "train-1-0.png", "class_id": 1, "class_name": class_name}
            row |= {"level": level, "seed": number, "retry": 0, "status": "ok"}
            writer.append(row, png((200, number, level), size=(32, 32)), "png", None)
    store = Store(folder)
    store.write_selection("default", [name for name, _ in samples[:-1]], {"rule": "all"})
    return store
