"""Kept embeddings of a selection in, how much images of one class differ at each level out; no pixel is read."""

import os
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from discl.errors import StoreError
from discl.store import Store, manifest
from discl.store.columns import classes
from discl.store.index import scan
from discl.store.keys import Keys

ROWS = 1 << 14  # in memory at a time


def diversity(path: str | os.PathLike, selection: str = "default") -> list[tuple[int, int, float]]:
    """(level, images, one minus the mean cosine of two different images of a class), by level, NaN without such a pair.

    The mean over all pairs of a class and level follows from the sum of its unit vectors, so one pass and a vector per
    class and level are enough. Raises StoreError where shards with selected images have no embeddings.
    """
    store = Store(path)
    chosen = Keys(store.selection(selection))
    sums: dict[tuple[int, str], np.ndarray] = {}
    counts: defaultdict[tuple[int, str], int] = defaultdict(int)
    batches = (batch for shard in store.shards for batch in _shard(store, shard, chosen))
    for level, label, vector in batches:
        sums[level, label] = sums.get((level, label), 0) + vector
        counts[level, label] += 1
    result = []
    for level in sorted({level for level, _ in counts}):
        groups = [group for group in counts if group[0] == level]
        pairs = sum(counts[group] * (counts[group] - 1) for group in groups)
        cosines = sum(float(np.sum(np.square(sums[group]))) - counts[group] for group in groups)
        result.append((level, sum(counts[group] for group in groups), 1 - cosines / pairs if pairs else float("nan")))
    return result


def _shard(store: Store, shard: manifest.Shard, chosen: Keys) -> Iterator[tuple[int, str, np.ndarray]]:
    """(level, class, unit vector) of the shard's chosen images."""
    vectors, start = store.shard_embeddings(shard), 0
    for batch in scan(store.path, [shard], ["key", "level", "class_id", "class_name"], None, ROWS):
        at = np.flatnonzero(chosen.numbers(batch["key"]) >= 0)
        if len(at) and vectors is None:
            raise StoreError(f"{store.name}: shard {shard.number:06d} has no embeddings to tell how its images differ")
        some = batch.take(at)
        for name, level, place in zip(classes(some).to_pylist(), some["level"].to_pylist(), at.tolist(), strict=True):
            assert vectors is not None
            vector = np.asarray(vectors[start + place], np.float64)
            if np.isfinite(vector).all():
                yield level or 0, name, vector / np.maximum(np.linalg.norm(vector), 1e-12)
        start += len(batch)
