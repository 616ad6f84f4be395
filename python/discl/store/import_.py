"""Images from elsewhere in, a store of them out: scores absent, recipe "imported", selection `default` of all."""

import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from discl import _C
from discl.errors import StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine
from discl.store.foreign import KINDS, Found
from discl.store.home import Home
from discl.store.reader import Store
from discl.store.remote import is_url
from discl.store.writer import StoreWriter

MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"RIFF", "webp"))


def import_(
    source: str | os.PathLike, path: str | os.PathLike, kind: str, shard_bytes: int, on_event: OnEvent = ignore
) -> Store:
    """Copy the images below `source` into the store at `path`, made if absent and perhaps a URL; a killed call goes on.

    kind: "imagefolder" (root/<class>/*), "wds" (a tar, or a folder of them), "reference" (the output trees of the
    paper's code and of its notebook), "reference-list" (its augmented list) or "reference-table" (its training table).
    Encoded bytes are kept; what cannot be read or is no JPEG, PNG or WebP is quarantined. Raises StoreError
    for an unknown kind, unsafe names in an archive, and when no image is found.
    """
    if kind not in KINDS:
        raise StoreError(f"import kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if not Path(source).exists():
        raise StoreError(f"{source}: there is nothing to import; check the path")
    if not is_url(path):
        return _import(Path(source), Path(path), kind, shard_bytes, on_event)
    with Home(os.fspath(path)) as home:
        _import(Path(source), home.folder, kind, shard_bytes, on_event, home.send)
    return Store(path)


def _import(
    source: Path, path: Path, kind: str, shard_bytes: int, on_event: OnEvent, on_sealed: Callable | None = None
) -> Store:
    keys: list[str] = []
    quarantine = Quarantine(path, 1, 1.0)
    meter = Meter("import", 0, on_event)
    with StoreWriter(path, "imported", shard_bytes=shard_bytes, on_sealed=on_sealed) as writer:
        for found in KINDS[kind](source):
            keys += _add(writer, found, quarantine)
            meter.advance()
    store = Store(path)
    if not keys:
        raise StoreError(f"{source}: no image for kind {kind!r}; quarantined: {len(quarantine.known)}")
    store.write_selection("default", {*_selected(store), *keys}, {"rule": "imported"})
    return store


def _selected(store: Store) -> Iterable[str]:
    return store.selection("default") if (store.path / "selections/default.parquet").is_file() else ()


def _add(writer: StoreWriter, found: Found, quarantine: Quarantine) -> Iterator[str]:
    try:
        found.name.encode()
        image = found.read()
    except UnicodeEncodeError:
        quarantine.record([(found.place, "its name is not UTF-8; rename it")])
        return
    except OSError as error:
        quarantine.record([(found.place, f"cannot be read: {error.strerror or error}")])
        return
    extension = next((name for magic, name in MAGIC if image.startswith(magic)), None)
    try:
        width, height, _ = _C.image_header(image)
    except (ValueError, RuntimeError):
        width = height = 0
    if extension is None or not width or not height:
        quarantine.record([(found.place, "no JPEG, PNG or WebP that can be read")])
        return
    key = blake2b(repr((found.name, sorted(found.row.items()))).encode() + image, digest_size=16).hexdigest()
    if key not in writer.keys:
        row = {"source_id": found.name, "source_ids": [found.name], **found.row}
        made = {"key": key, "recipe": "imported", "status": "ok", "width": width, "height": height}
        writer.append(row | made, image, extension, None)
    yield key
