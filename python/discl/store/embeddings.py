"""A shard's CLIP embeddings as an npy file: one fp16 row per index row, NaN where a sample has none."""

import io
from pathlib import Path

import numpy as np

from discl.errors import StoreError


def npy_file(stacked: np.ndarray) -> bytes:
    """The file's content: fp16 [rows, D] as its bytes in rows, uint8 [rows, 2 D]."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": (len(stacked), stacked.shape[1] // 2)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return b"".join([buffer.getvalue(), stacked.data])


def read_embeddings(path: Path, rows: int) -> np.ndarray:
    """fp16 [rows, D], mapped into memory. Raises StoreError for anything else."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float16 or vectors.ndim != 2 or len(vectors) != rows:
            raise ValueError(f"they are {vectors.dtype} {list(vectors.shape)}, expected float16 [{rows}, D]")
    except Exception as error:  # numpy's parser of the header raises whatever Python's tokenizer does
        raise StoreError(f"{path}: damaged embeddings ({error})") from error
    return vectors
