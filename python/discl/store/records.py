"""A sealed shard in, its samples as they were appended out: what every tool that copies samples reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from discl import _C
from discl.errors import StoreError
from discl.store import manifest
from discl.store.columns import PLACE_SCHEMA
from discl.store.embeddings import read_embeddings
from discl.store.index import open_index

ROWS = 1024  # dicts in memory at a time


@dataclass(frozen=True)
class Record:
    """row: the index columns but PLACE_SCHEMA's; image: encoded bytes, None for a row without one ("" its extension);
    embedding: float16 [D] or None."""

    row: dict[str, Any]
    image: bytes | None
    extension: str
    embedding: np.ndarray | None


def records(root: Path, shard: manifest.Shard, embeddings: bool = True) -> Iterator[Record]:
    """Every sample of a shard in order; images are checked against their CRC32C. StoreError for damage, naming it."""
    vectors = shard_embeddings(root, shard) if embeddings else None
    try:
        images = ShardImages(root, shard.number)
        for at, row in enumerate(rows(root, shard)):
            place = {name: row.pop(name) for name in PLACE_SCHEMA.names}
            image, extension = images.read(place)
            yield Record(row, image, extension, None if vectors is None else embedding_of(vectors[at]))
    except (OSError, RuntimeError, IndexError) as error:
        raise StoreError(
            f"{root / manifest.shard_path(shard.number)}: {error}; run `discl store verify {root}`"
        ) from error


def rows(root: Path, shard: manifest.Shard) -> Iterator[dict[str, Any]]:
    """The index rows of a shard as dicts."""
    for batch in open_index(root, shard).iter_batches(ROWS, use_threads=False):
        yield from batch.to_pylist()


class ShardImages:
    """The images of one shard's tar by their place in the index."""

    def __init__(self, root: Path, number: int) -> None:
        self._tar = _C.ShardReader(str(root / manifest.shard_path(number)))
        self._extensions = {offset: name.rpartition(".")[2] for name, offset, _ in self._tar.members()}

    def read(self, place: dict[str, Any]) -> tuple[bytes | None, str]:
        """Encoded bytes and extension; (None, "") for a row without an image."""
        if place["shard"] is None:
            return None, ""
        extension = self._extensions.get(place["offset"])
        if extension is None:
            raise RuntimeError(f"no member begins at offset {place['offset']}, where the index has an image")
        return self._tar.read(place["offset"], place["length"], place["crc32c"]), extension


def shard_embeddings(root: Path, shard: manifest.Shard) -> np.ndarray | None:
    """float16 [rows, D], mapped; None for a shard without. StoreError for damage."""
    name = manifest.embeddings_path(shard.number)
    if name not in shard.files:
        return None
    return read_embeddings(root / name, shard.rows)


def embedding_of(vector: np.ndarray) -> np.ndarray | None:
    """A row of NaN stands for a sample without an embedding."""
    return None if np.isnan(vector).all() else np.array(vector)
