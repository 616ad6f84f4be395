"""What a store's history says in, its files brought into that state out: the end of every rewrite, by whoever comes."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from discl.atomic import write_atomic
from discl.store import history, manifest

DATA = {"shards": ".tar", "index": ".parquet", "embeddings": ".npy"}


def settle(root: Path) -> None:
    """Bring the files of a folder into the state that its history names; nothing is written when they are in it."""
    past, shards = history.rewrites(root), manifest.sealed_shards(root)
    for name, data in missing_entries(past, shards):
        if not (root / name).exists():
            write_atomic(root / name, data)
    for name in retired_files(past, shards):
        (root / name).unlink(missing_ok=True)


def missing_entries(past: Iterable[history.Rewrite], shards: Iterable[manifest.Shard]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the manifest entries that rewrites have brought and that still count."""
    live = {shard.number: shard.digest for shard in shards}
    for entry in (entry for rewrite in past for entry in rewrite.shards):
        if live.get(entry["number"]) == entry["digest"]:
            yield manifest.manifest_path(entry["number"]), json.dumps(entry, indent=1).encode()


def retired_files(past: Iterable[history.Rewrite], shards: Iterable[manifest.Shard]) -> Iterator[str]:
    """The files that rewrites have replaced, the manifest entries first."""
    live = {shard.number for shard in shards}
    for number in (number for rewrite in past for number, _ in rewrite.retired):
        if number not in live:
            yield manifest.manifest_path(number)
            yield from (f"{folder}/{number:06d}{suffix}" for folder, suffix in DATA.items())


def is_stranger(name: str, shards: dict[int, Any]) -> bool:
    """Whether a file in one of DATA's folders is unfinished, or a shard's that is not in the manifest."""
    stem, _, suffix = name.partition(".")
    if not stem:
        return name.endswith(".tmp")
    return f".{suffix}" in DATA.values() and stem.isdecimal() and int(stem) not in shards
