"""A store's index of millions of scored rows, without the images: what filtering reads."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discl.store import manifest
from discl.store.columns import SCHEMA

PER_SHARD = 1 << 17
LEVELS, SEEDS, CLASSES = (0, 10, 30, 50, 70), 8, 1000


def write_scored_rows(root: Path, rows: int) -> None:
    """Sealed shards of `rows` rows in all: sources of 5 levels x 8 seeds one after the other, 1,000 classes."""
    for folder in manifest.FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, PER_SHARD)):
        table = _shard(number, start, min(PER_SHARD, rows - start))
        name = manifest.index_path(number)
        pq.write_table(table, root / name)
        tar = manifest.shard_path(number)
        (root / tar).write_bytes(bytes(1024))
        files = {tar: manifest.file_entry(root / tar, "crc32c"), name: manifest.file_entry(root / name)}
        manifest.publish(root, number, len(table), len(table), "run", files)


def _shard(number: int, start: int, rows: int) -> pa.Table:
    random = np.random.default_rng(number)
    at = np.arange(start, start + rows)
    source = at // (len(LEVELS) * SEEDS)
    label = source % CLASSES
    level = np.array(LEVELS)[at % len(LEVELS)]
    digits = random.bytes(16 * rows).hex().encode()
    keys = pa.Array.from_buffers(pa.binary(32), rows, [None, pa.py_buffer(digits)]).cast(pa.binary()).cast(pa.string())
    names = pa.array([f"a class with the number {label}" for label in range(CLASSES)]).take(pa.array(label))
    sources, source_at = np.unique(source, return_inverse=True)
    source_ids = [f"train/{each % CLASSES:04d}/image-{each:08d}.jpg" for each in sources]
    columns = {
        "key": keys,
        "run_id": ["run"] * rows,
        "recipe": ["0123456789abcdef" * 2] * rows,
        "source_id": pa.array(source_ids).take(pa.array(source_at)),
        "class_id": label,
        "class_name": names,
        "level": level,
        "seed": at // len(LEVELS) % SEEDS,
        "prompt": names,
        "text_score": random.normal(0.25 + level / 1000, 0.05).astype(np.float32),
        "image_score": random.uniform(0.3, 0.9, rows).astype(np.float32),
        "margin": random.normal(0.02, 0.05, rows).astype(np.float32),
        "status": ["ok"] * rows,
        "shard": np.full(rows, number, np.int32),
        "offset": np.arange(rows) * 51200,
        "length": random.integers(20_000, 51_200, rows),
        "crc32c": random.integers(0, 2**32, rows, np.uint32),
    }
    given = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type) for f in SCHEMA]
    return pa.table(given, schema=SCHEMA)
