"""A shard's CLIP embeddings as an npy file: one fp16 row per index row, NaN where a sample has none."""

import io
from pathlib import Path

import numpy as np

from discl.errors import StoreError


def npy_header(rows: int, width: int) -> bytes:
    """What the file has in front of fp16 [rows, width]."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(buffer, header)
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
