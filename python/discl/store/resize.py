"""A store in, the same samples in shards of another size out."""

import os
from pathlib import Path

from discl.progress import OnEvent, ignore
from discl.store import manifest
from discl.store.remote import as_folder
from discl.store.rewrite import exclusive, rewrite, sweep


def reshard(path: str | os.PathLike, shard_bytes: int, on_event: OnEvent = ignore) -> int:
    """Write every shard anew at about `shard_bytes`, samples in the same order; returns how many shards there are."""
    root = as_folder(path)
    with exclusive(root):
        _join(root, "reshard", manifest.sealed_shards(root), shard_bytes, on_event)
        sweep(root)
    return len(manifest.sealed_shards(root))


def compact(path: str | os.PathLike, shard_bytes: int, on_event: OnEvent = ignore) -> int:
    """Join the shards below half of `shard_bytes` and remove files that no manifest names; returns how many shards
    there are. Joined samples come behind those of the shards that stay."""
    root = as_folder(path)
    with exclusive(root):
        small = [shard for shard in manifest.sealed_shards(root) if 2 * _bytes(shard) < shard_bytes]
        if len(small) > 1:
            _join(root, "compact", small, shard_bytes, on_event)
        sweep(root)
    return len(manifest.sealed_shards(root))


def _join(root: Path, reason: str, shards: list[manifest.Shard], shard_bytes: int, on_event: OnEvent) -> None:
    if shards:
        rewrite(root, reason, shards, lambda row: True, shard_bytes, on_event=on_event)


def _bytes(shard: manifest.Shard) -> int:
    return shard.files[manifest.shard_path(shard.number)]["bytes"]
