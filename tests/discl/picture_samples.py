"""Samples with real pictures in them: number in, arguments of StoreWriter.append out."""

from pathlib import Path

import numpy as np

from discl.store import Store, StoreWriter, encode_image
from tests.discl.store_samples import key, sample

CLASSES = ["cat", "é/ü", "dog house"]


def picture(i: int, format: str = "jpg") -> bytes:
    """A gradient that differs from number to number, 24 x 16."""
    across, down = np.meshgrid(np.arange(24), np.arange(16))
    return encode_image(np.stack([across * 7, down * 11, across * 0 + i * 5 % 256], 2).astype(np.uint8), format)


def fill_pictures(path: Path, numbers, format: str = "jpg", shard_bytes: int = 6000, **columns) -> Store:
    """A store of pictures, every fourth sample without one; selection `default`: all with one."""
    with StoreWriter(path, "run", shard_bytes=shard_bytes, user_columns=list(columns)) as writer:
        for i in numbers:
            row, image, _, embedding = sample(i)
            user = {name: values[i % len(values)] for name, values in columns.items()}
            writer.append(row | user, picture(i, format) if image else None, format, embedding)
    store = Store(path)
    store.write_selection("default", [key(i) for i in numbers if i % 4 != 3], {"rule": "ok"})
    return store
