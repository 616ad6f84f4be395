"""A selection as a Parquet file: keys and the rule that chose them in, bytes out, and back; checked by a digest."""

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discl.atomic import replaced
from discl.errors import StoreError
from discl.store.columns import KEY

KEY_LENGTH = 32
PIECE = 1 << 18  # keys


def encode_selection(keys: list[str], rule: dict[str, Any]) -> bytes:
    """One column `key`; the rule stands in the schema's metadata as JSON."""
    text = json.dumps(rule, sort_keys=True)
    schema = pa.schema([("key", pa.string())], metadata={"rule": text, "digest": _digest(keys, text)})
    buffer = io.BytesIO()
    pq.write_table(pa.table([pa.array(keys, pa.string())], schema=schema), buffer)
    return buffer.getvalue()


def write_selection_file(path: Path, keys: Iterable[pa.Array], rule: dict[str, Any]) -> None:
    """The same as a file, made or replaced whole, of keys that come in pieces: one piece is in memory at a time."""
    text = json.dumps(rule, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    schema = pa.schema([("key", pa.string())], metadata={"rule": text})
    # Keys are random digits: a dictionary of them is as long as they are.
    how: dict[str, Any] = {"use_dictionary": False, "compression": "zstd"}
    with replaced(path) as file, pq.ParquetWriter(file, schema, **how) as writer:
        for piece in keys:
            if len(piece):
                digest.update(_lines(piece))
                writer.write_table(pa.table([piece], schema=schema))
        writer.add_key_value_metadata({"digest": digest.hexdigest()})


def _lines(keys: pa.Array) -> bytes:
    """A line feed before every key."""
    fixed = keys.cast(pa.binary()).cast(pa.binary(KEY_LENGTH))
    digits = np.frombuffer(fixed.buffers()[1], np.uint8)[KEY_LENGTH * fixed.offset :][: KEY_LENGTH * len(fixed)]
    lines = np.full((len(fixed), 1 + KEY_LENGTH), ord("\n"), np.uint8)
    lines[:, 1:] = digits.reshape(-1, KEY_LENGTH)
    return lines.tobytes()


def decode_selection(data: bytes, path: str) -> tuple[list[str], dict[str, Any]]:
    """Keys and rule; `path` is what errors call the file. Raises StoreError."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        keys, metadata = file.read(use_threads=False)["key"].to_pylist(), file.metadata.metadata
        text = metadata[b"rule"].decode()
        if metadata[b"digest"].decode() != _digest(keys, text) or not all(map(KEY.fullmatch, keys)):
            raise ValueError("its digest differs")
        return keys, json.loads(text)
    except (OSError, KeyError, ValueError, TypeError, MemoryError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged selection ({error}); make it again with `discl filter`") from error


def decode_rule(data: bytes, path: str) -> dict[str, Any]:
    """The rule alone, checked as well; of millions of keys one piece is in memory at a time. Raises StoreError."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        text = file.metadata.metadata[b"rule"].decode()
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        for piece in file.iter_batches(PIECE, use_threads=False):
            digest.update(_lines(piece["key"]))
        if file.metadata.metadata[b"digest"].decode() != digest.hexdigest():
            raise ValueError("its digest differs")
        return json.loads(text)
    except (OSError, KeyError, ValueError, TypeError, MemoryError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged selection ({error}); make it again with `discl filter`") from error


def _digest(keys: list[str], rule: str) -> str:
    return hashlib.blake2b("\n".join([rule, *keys]).encode(), digest_size=16).hexdigest()
