"""A store in, the same samples in shards of another size out."""

import os

from discl.progress import OnEvent, ignore
from discl.store import manifest
from discl.store.rewrite import Rewriting, rewriting


def reshard(path: str | os.PathLike, shard_bytes: int, on_event: OnEvent = ignore) -> int:
    """Write every shard anew at about `shard_bytes`, samples in the same order; returns how many shards there are."""
    with rewriting(path) as store:
        return _join(store, "reshard", manifest.sealed_shards(store.root), shard_bytes, on_event)


def compact(path: str | os.PathLike, shard_bytes: int, on_event: OnEvent = ignore) -> int:
    """Join the shards below half of `shard_bytes` and remove files that no manifest names; returns how many shards
    there are. Joined samples come behind those of the shards that stay."""
    with rewriting(path) as store:
        small = [shard for shard in manifest.sealed_shards(store.root) if 2 * _bytes(shard) < shard_bytes]
        return _join(store, "compact", small if len(small) > 1 else [], shard_bytes, on_event)


def _join(store: Rewriting, reason: str, shards: list[manifest.Shard], shard_bytes: int, on_event: OnEvent) -> int:
    if shards:
        store.rewrite(reason, shards, lambda row: True, shard_bytes, on_event=on_event)
    store.sweep()
    return len(manifest.sealed_shards(store.root))


def _bytes(shard: manifest.Shard) -> int:
    return shard.files[manifest.shard_path(shard.number)]["bytes"]
