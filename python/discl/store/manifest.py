"""The manifest, one JSON file per sealed shard: a store's folder in, Shard entries and snapshot ids out."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discl import _C
from discl.atomic import put_if_absent
from discl.errors import StoreError
from discl.store import history

FORMAT = 2  # 1 had BLAKE2b digests of tars
FOLDERS = ("manifest", "shards", "index", "embeddings", "selections", "runs")
ATTEMPTS = 20
_NAME = re.compile(r"(\d{6,})\.json")
_SNAPSHOT = re.compile(r"(\d{6,})-([0-9a-f]{32})")


@dataclass(frozen=True)
class Shard:
    """One sealed shard. `files`: path inside the store -> {"bytes": int, "blake2b": 32 hex or "crc32c": 8 hex}."""

    number: int
    rows: int
    images: int
    run_id: str
    files: dict[str, dict[str, Any]]
    digest: str  # of all the above


def shard_path(number: int) -> str:
    return f"shards/{number:06d}.tar"


def index_path(number: int) -> str:
    return f"index/{number:06d}.parquet"


def embeddings_path(number: int) -> str:
    return f"embeddings/{number:06d}.npy"


def manifest_path(number: int) -> str:
    return f"manifest/{number:06d}.json"


def data_entry(*pieces: bytes | memoryview) -> dict[str, Any]:
    """Size and digest of a file's content, as the manifest records them."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(piece)
    return {"bytes": sum(memoryview(piece).nbytes for piece in pieces), "blake2b": digest.hexdigest()}


def tar_entry(bytes: int, crc32c: int) -> dict[str, Any]:
    """The same of a tar. A CRC32C, since that is known when the tar is: no second pass over the images."""
    return {"bytes": bytes, "crc32c": f"{crc32c:08x}"}


def file_entry(path: Path, kind: str = "blake2b") -> dict[str, Any]:
    """The entry of this kind for a file as it is now."""
    if kind == "blake2b":
        return data_entry(path.read_bytes())
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = _C.crc32c(block, crc)
        return tar_entry(file.tell(), crc)


def publish(root: Path, number: int, rows: int, images: int, run_id: str, files: dict[str, dict[str, Any]]) -> None:
    """Enter a shard whose files are complete and durable: before this no reader sees it, after it all do.

    files: path inside the store -> its entry.
    """
    try:
        put_if_absent(root / manifest_path(number), entry(number, rows, images, run_id, files))
    except FileExistsError as error:
        path = root / manifest_path(number)
        raise StoreError(f"{path} exists already; two writers at one store? Stop one of them") from error


def entry(number: int, rows: int, images: int, run_id: str, files: dict[str, dict[str, Any]]) -> bytes:
    """An entry's content."""
    body = {"format": FORMAT, "number": number, "rows": rows, "images": images, "run_id": run_id, "files": files}
    return json.dumps(body | {"digest": _digest(body)}, indent=1).encode()


def sealed_shards(root: Path) -> list[Shard]:
    """Every shard in the manifest, by number. Raises StoreError for no store or a damaged manifest."""
    for _ in range(ATTEMPTS):
        try:
            return _sealed(root)
        except FileNotFoundError:  # a rewrite has retired an entry since the folder was listed
            continue
    raise StoreError(f"{root / 'manifest'}: its entries vanish while they are read; try again later")


def _sealed(root: Path) -> list[Shard]:
    try:
        names = os.listdir(root / "manifest")
    except OSError as error:
        raise StoreError(
            f"{root} is not a discl store ({error.strerror}: manifest/); give one that `discl generate` made"
        ) from error
    past = history.rewrites(root)
    entered = [_read(root / "manifest" / name) for name in entry_names(names)]
    return live(entered, past, f"{root / history.FOLDER}")


def live(entered: Iterable[Shard], past: Sequence[history.Rewrite], path: str) -> list[Shard]:
    """The shards of a store whose manifest has these entries and whose rewrites are `past`; `path`: theirs, for errors.

    The entries are to be listed before the rewrites are read: one that happens in between is seen whole then.
    """
    retired = {(number, digest) for rewrite in past for number, digest in rewrite.retired}
    shards = {shard.number: shard for shard in entered}
    for entry in (entry for rewrite in past for entry in rewrite.shards):
        shard = parse(f"{entry['number']}", path, json.dumps(entry).encode())
        shards.setdefault(shard.number, shard)
    kept = (shard for shard in shards.values() if (shard.number, shard.digest) not in retired)
    return sorted(kept, key=lambda shard: shard.number)


def entry_names(names: Iterable[str]) -> list[str]:
    """Those of the files in a manifest folder that are entries, by number."""
    return sorted(filter(_NAME.fullmatch, names), key=lambda name: (len(name), name))


def snapshot_id(shards: list[Shard]) -> str:
    """<number of shards>-<digest of their entries>. Old ids stay resolvable while shards are only added."""
    return _snapshot_id([shard.digest for shard in shards])


def _snapshot_id(digests: Sequence[str]) -> str:
    return f"{len(digests):06d}-{hashlib.blake2b(''.join(digests).encode(), digest_size=16).hexdigest()}"


def shards_at(shards: list[Shard], snapshot: str, past: Sequence[history.Rewrite] = ()) -> list[Shard]:
    """The shards sealed when `snapshot` was taken.

    Raises StoreError when the store never had that state, or when a rewrite in `past` retired a part of it.
    """
    match = _SNAPSHOT.fullmatch(str(snapshot))
    if not match:
        raise StoreError(f"snapshot {snapshot!r} is not an id that Store.snapshot() gives, such as 000012-<32 hex>")
    then = shards[: int(match[1])]
    if snapshot_id(then) != snapshot:
        refusal = history.refusal(snapshot, int(match[1]), past, _snapshot_id)
        if refusal:
            raise StoreError(refusal)
        raise StoreError(f"snapshot {snapshot} is no state of this store ({len(shards)} shards); is it another's?")
    return then


def _read(path: Path) -> Shard:
    try:
        return parse(path.name, str(path), path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(str(path), repr(error)) from error


def parse(name: str, path: str, data: bytes) -> Shard:
    """One entry; `path` is what errors call it. Raises StoreError for a damaged or a newer one."""
    try:
        body = json.loads(data)
        format = body.pop("format")
        if isinstance(format, int) and format > FORMAT:
            raise StoreError(f"{path}: store format {format} is newer than {FORMAT}; update discl")
        digest = body.pop("digest")
        intact = digest == _digest({"format": format, **body}) and body["number"] == int(name.partition(".")[0])
        shard = Shard(digest=digest, **body)
        if intact and not _plausible(shard):
            raise ValueError("numbers or file names that no writer enters")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(path, repr(error)) from error
    if not intact:
        raise Damaged(path, "its digest differs")
    return shard


def _plausible(shard: Shard) -> bool:
    """A digest only says that an entry is whole: a foreign one must not lead out of the store, nor ask for the moon."""
    names = {shard_path(shard.number), index_path(shard.number)}
    sizes = [entry["bytes"] for entry in shard.files.values()]
    return (
        names <= shard.files.keys() <= names | {embeddings_path(shard.number)}
        and all(type(size) is int and size >= 0 for size in sizes)
        and type(shard.rows) is int
        and type(shard.images) is int
        and 0 <= shard.images <= shard.rows <= 1 << 40
    )


class Damaged(StoreError):
    """An entry that cannot be believed."""

    def __init__(self, path: str, reason: str) -> None:
        advice = "restore it from a copy of the store, or run discl store verify --repair"
        super().__init__(f"{path}: damaged manifest ({reason}); {advice}")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()
