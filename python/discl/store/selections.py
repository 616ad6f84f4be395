"""A selection as a Parquet file: keys and the rule that chose them in, bytes out, and back; checked by a digest."""

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discl.errors import StoreError
from discl.store.columns import KEY


def encode_selection(keys: list[str], rule: dict[str, Any]) -> bytes:
    """One column `key`; the rule stands in the schema's metadata as JSON."""
    text = json.dumps(rule, sort_keys=True)
    schema = pa.schema([("key", pa.string())], metadata={"rule": text, "digest": _digest(keys, text)})
    buffer = io.BytesIO()
    pq.write_table(pa.table([pa.array(keys, pa.string())], schema=schema), buffer)
    return buffer.getvalue()


def decode_selection(data: bytes, path: str) -> tuple[list[str], dict[str, Any]]:
    """Keys and rule; `path` is what errors call the file. Raises StoreError."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        keys, metadata = table["key"].to_pylist(), table.schema.metadata
        text = metadata[b"rule"].decode()
        if metadata[b"digest"].decode() != _digest(keys, text) or not all(map(KEY.fullmatch, keys)):
            raise ValueError("its digest differs")
        return keys, json.loads(text)
    except (OSError, KeyError, ValueError, TypeError, MemoryError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged selection ({error}); make it again with `discl filter`") from error


def _digest(keys: list[str], rule: str) -> str:
    return hashlib.blake2b("\n".join([rule, *keys]).encode(), digest_size=16).hexdigest()
