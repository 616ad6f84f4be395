"""What replaced which shards, one record per rewrite: STORE/manifest/rewrites/000000.json.

A record is put in one step, and from then on its new shards are in the manifest and its retired ones are not: a store
is never seen between the two. The files of a record are settled (entered, removed) afterwards, see rewrite.py.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from discl.atomic import put_if_absent
from discl.errors import StoreError

FOLDER = "manifest/rewrites"


@dataclass(frozen=True)
class Rewrite:
    """reason: the command; before: digests of all shards in order; retired: (number, digest); shards: new entries."""

    reason: str
    at: str
    before: list[str]
    retired: list[tuple[int, str]]
    shards: list[dict[str, Any]]


def rewrites(root: Path) -> list[Rewrite]:
    """Every record, oldest first. StoreError for a damaged one."""
    try:
        names = sorted(name for name in os.listdir(root / FOLDER) if name.endswith(".json") and name[0] != ".")
    except FileNotFoundError:
        return []
    return [_read(root / FOLDER / name) for name in names]


def record(root: Path, rewrite: Rewrite) -> None:
    """The moment at which a rewrite happens."""
    (root / FOLDER).mkdir(exist_ok=True)
    put_if_absent(root / next_name(root), encode(rewrite))


def next_name(root: Path) -> str:
    """Of the next record, as a path inside the store."""
    return f"{FOLDER}/{len(rewrites(root)):06d}.json"


def encode(rewrite: Rewrite) -> bytes:
    body = asdict(rewrite)
    return json.dumps(body | {"digest": _digest(body)}, indent=1).encode()


def _digest(body: dict[str, Any]) -> str:
    return blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> Rewrite:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(str(path), error) from error
    return parse(str(path), data)


def parse(path: str, data: bytes) -> Rewrite:
    """One record; `path` is what errors call it. StoreError for a damaged one."""
    try:
        body = json.loads(data)
        if body.pop("digest") != _digest(body):
            raise ValueError("its digest differs")
        retired = [(int(number), str(digest)) for number, digest in body["retired"]]
        if not all(isinstance(entry["number"], int) for entry in body["shards"]):
            raise ValueError("an entry has no number")
        if not all(isinstance(digest, str) for digest in body["before"]):
            raise ValueError("a digest is no text")
        return Rewrite(**body | {"retired": retired})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> StoreError:
    return StoreError(f"{path}: damaged manifest ({error!r}); restore it from a copy of the store")


def refusal(snapshot: str, count: int, past: Sequence[Rewrite], digest_of) -> str | None:
    """Why a snapshot that was a state of this store is none any more; None if it never was one."""
    for rewrite in past:
        if digest_of(rewrite.before[:count]) == snapshot:
            lost = "samples that were forgotten" if rewrite.reason == "forget" else "shards that were replaced"
            return (
                f"snapshot {snapshot} contains {lost} since (discl store {rewrite.reason}, {rewrite.at}); "
                "open the store as it is now, and start trainings that pinned this snapshot anew"
            )
    return None
