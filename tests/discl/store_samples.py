"""Deterministic samples for stores: number in, arguments of StoreWriter.append out."""

import hashlib
from pathlib import Path

import numpy as np

from discl.store import Store, StoreWriter


def key(i: int) -> str:
    return hashlib.blake2b(i.to_bytes(8, "little"), digest_size=16).hexdigest()


def sample(i: int) -> tuple[dict, bytes | None, str, np.ndarray | None]:
    """Every fourth sample is rejected (no image), every tenth has no embedding; images are mere bytes."""
    rng = np.random.default_rng(i)
    rejected = i % 4 == 3
    row = {
        "key": key(i),
        "recipe": "r" * 32,
        "source_id": f"source-{i % 5}",
        "source_ids": [f"source-{i % 5}", "twin"],
        "class_id": i % 3,
        "class_name": ["cat", "é/ü", "dog house"][i % 3],
        "level": [0, 10, 30, 50][i % 4],
        "noise_seed": 2**32 - 1 - i,
        "text_score": np.float32(0.25) + i,
        "status": "rejected-early" if rejected else "ok",
        "control": False,
        "width": 8,
        "height": 8,
    }
    embedding = None if i % 10 == 9 else rng.normal(size=4).astype(np.float32)
    return row, None if rejected else rng.bytes(int(rng.integers(1, 3000))), "png", embedding


def fill(path: Path, numbers, run_id: str = "run", shard_bytes: int = 20_000, **options) -> Store:
    with StoreWriter(path, run_id, shard_bytes=shard_bytes, **options) as writer:
        for i in numbers:
            if key(i) not in writer.keys:
                writer.append(*sample(i))
    return Store(path)


def check(store: Store, count: int) -> None:
    """The store holds samples 0..count-1, each once, with the bytes, scores and embeddings given."""
    assert sorted(store.keys()) == sorted(key(i) for i in range(count))
    rows = {row["key"]: (at, row) for at, row in enumerate(store.table.to_pylist())}
    embeddings = store.embeddings()
    for i in range(count):
        given, image, _, embedding = sample(i)
        at, row = rows[given["key"]]
        assert {name: row[name] for name in given} == given
        assert (row["shard"] is None) == (image is None)
        assert image is None or store.read(given["key"]) == image
        expected = np.full(4, np.nan) if embedding is None else embedding.astype(np.float16)
        np.testing.assert_array_equal(embeddings[at], expected)
