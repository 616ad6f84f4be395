"""Images, scores and embeddings in; sealed WebDataset shards with a Parquet index out, and back by key.

STORE/ manifest/000000.json, shards/000000.tar, index/000000.parquet, embeddings/000000.npy,
selections/<name>.parquet; manifest/rewrites/000000.json where shards were replaced; workers/<name>/, a store each,
while a cluster writes. The manifest is the only truth: a file that no manifest names does not exist for a reader.
"""

from discl.store.encode import encode_image
from discl.store.reader import Store
from discl.store.remote import is_url
from discl.store.verification import verify
from discl.store.writer import StoreWriter

__all__ = ["Store", "StoreWriter", "encode_image", "is_url", "verify"]
