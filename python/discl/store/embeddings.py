"""A shard's CLIP embeddings as an npy file: one fp16 row per index row, NaN where a sample has none."""

import io
from pathlib import Path

import numpy as np

from discl.errors import StoreError


def encode_embeddings(vectors: list[bytes], width: int) -> bytes:
    """fp16 [rows, width] from the bytes of each row; b"" for none."""
    missing = np.full(width, np.nan, np.float16).tobytes()
    buffer = io.BytesIO()
    stacked = np.frombuffer(b"".join(vector or missing for vector in vectors), np.float16)
    np.save(buffer, stacked.reshape(-1, width), allow_pickle=False)
    return buffer.getvalue()


def read_embeddings(path: Path, rows: int) -> np.ndarray:
    """fp16 [rows, D], mapped into memory. Raises StoreError for anything else."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float16 or vectors.ndim != 2 or len(vectors) != rows:
            raise ValueError(f"they are {vectors.dtype} {list(vectors.shape)}, expected float16 [{rows}, D]")
    except Exception as error:  # numpy's parser of the header raises whatever Python's tokenizer does
        raise StoreError(f"{path}: damaged embeddings ({error})") from error
    return vectors
