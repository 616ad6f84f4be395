"""Embeddings of one source's images in, those that are near-duplicates of better ones left out."""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from discl.errors import StoreError
from discl.filtering.spool import Spool

if TYPE_CHECKING:
    from discl.store import Store

OPEN_SHARDS = 8
WITHOUT = "filter without --duplicates, or make a store of images that all were scored"


def without_near_duplicates(store: "Store", spool: Spool, alive: np.ndarray, cosine: float, cap: int) -> None:
    """Drop from `alive`, in place, every image that has `cap` kept ones of its source with a cosine above `cosine`.

    Best scores are kept first, of equal ones the lowest keys. Raises StoreError for a living image without an
    embedding, and for stores with embeddings of several widths: then nothing can be compared.
    """
    vectors = _Vectors(store)
    for rows in _by_source(spool, alive):
        if len(rows) > cap:
            close = vectors.of(rows)
            close = close @ close.T > cosine
            alive[rows[~_kept(close, cap)]] = False


def _kept(close: np.ndarray, cap: int) -> np.ndarray:
    kept = np.zeros(len(close), bool)
    for at, near in enumerate(close):
        kept[at] = np.count_nonzero(near[:at] & kept[:at]) < cap
    return kept


def _by_source(spool: Spool, alive: np.ndarray) -> Iterator[np.ndarray]:
    """The living rows of each source with several, best first."""
    parts = []
    for place, records in spool.chunks():
        at = np.flatnonzero(alive[place])
        found = np.empty(len(at), [("source", "i4"), ("score", "f4"), ("tie", "u4"), ("row", "i8")])
        found["source"], found["score"] = records["source"][at], -np.nan_to_num(records["score"][at], nan=-np.inf)
        found["tie"], found["row"] = records["tie"][at], place.start + at
        parts.append(found)
    found = np.concatenate(parts)
    found.sort(order=["source", "score", "tie", "row"])
    edges = np.flatnonzero(np.diff(found["source"])) + 1
    yield from np.split(found["row"], edges)


class _Vectors:
    """Normalised float32 embeddings of any rows; few shards are mapped at a time."""

    def __init__(self, store: "Store"):
        self.store = store
        self.starts = np.cumsum([0, *(shard.rows for shard in store.shards)])
        self._shard = lru_cache(OPEN_SHARDS)(lambda at: store.shard_embeddings(store.shards[at]))

    def of(self, rows: np.ndarray) -> np.ndarray:
        found = [self._row(int(row)) for row in rows]
        if len({len(vector) for vector in found}) > 1:
            raise StoreError(f"{self.store.name}: embeddings of different widths; they come from different scorers")
        vectors = np.stack(found).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            bad = self.store.keys_at(rows[~np.isfinite(norms[:, 0])][:1])
            raise StoreError(f"{self.store.name}: sample {bad[0]} has no embedding, so nothing compares; {WITHOUT}")
        return vectors / np.maximum(norms, 1e-12)

    def _row(self, row: int) -> np.ndarray:
        at = int(np.searchsorted(self.starts, row, "right")) - 1
        vectors = self._shard(at)
        if vectors is None:
            number = self.store.shards[at].number
            raise StoreError(
                f"{self.store.name}: shard {number:06d} has no embeddings, so duplicates cannot be found; {WITHOUT}"
            )
        return vectors[row - self.starts[at]]
