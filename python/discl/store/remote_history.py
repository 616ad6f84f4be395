"""Rewrites (compact, reshard, forget) of a store behind a URL: made in the folder that writes it, then sent.

The data of the new shards goes first, then one record, only if there is none of its number: with it the rewrite has
happened. Whoever opens the store for writing afterwards enters and removes there what the history says.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from discl.atomic import write_atomic
from discl.store import history, manifest
from discl.store.records import Record, records
from discl.store.settle import DATA, is_stranger, missing_entries, retired_files

if TYPE_CHECKING:
    from discl.store.home import Home


def fetch_history(home: "Home") -> None:
    """Rewrites by other machines, or ones that were cut short here, happen in the folder as well."""
    (home.folder / history.FOLDER).mkdir(exist_ok=True)
    there = home.attempt("read the history", home.remote.records)
    here = {path.relative_to(home.folder).as_posix() for path in (home.folder / history.FOLDER).glob("[!.]*.json")}
    for name in sorted(there.keys() | here):
        path = home.folder / name
        if not path.exists():
            write_atomic(path, there[name])
        elif path.read_bytes() != there.get(name):
            raise home.two_machines(name)


def records_there(home: "Home", shard: manifest.Shard) -> Iterator[Record]:
    """A shard's samples; its files are read there, through the cache of readers."""
    home.remote.bring(shard.files.items())
    return records(home.remote.folder, shard)


def send_rewrite(home: "Home", rewrite: history.Rewrite) -> None:
    """The data of its shards, then the record with which it happens."""
    for entry in rewrite.shards:
        for name, file in entry["files"].items():
            home.put(name, file)
    home.create(history.next_name(home.folder), history.encode(rewrite))


def settle_there(home: "Home") -> None:
    """Bring the files there into the state that the folder's history says."""
    past = history.rewrites(home.folder)
    if not past:
        return
    shards = manifest.sealed_shards(home.folder)
    there = {f"{folder}/{name}" for folder in ("manifest", *DATA) for name in _names(home, folder)}
    for name, data in missing_entries(past, shards):
        if name not in there:
            home.create(name, data)
    _remove(home, (name for name in retired_files(past, shards) if name in there))
    home.drop(name for rewrite in past for entry in rewrite.shards for name in entry["files"])


def sweep_there(home: "Home") -> None:
    """Remove shards' files there that no manifest names: uploads that were torn or never entered."""
    shards = {shard.number: shard for shard in manifest.sealed_shards(home.folder)}
    found = ((folder, name) for folder in DATA for name in _names(home, folder))
    _remove(home, (f"{folder}/{name}" for folder, name in found if is_stranger(name, shards)))


def _names(home: "Home", folder: str) -> list[str]:
    files, _ = home.remote.connection()
    files.invalidate_cache()
    return home.attempt(f"list {folder}", home.remote.names, folder)


def _remove(home: "Home", names: Iterable[str]) -> None:
    files, root = home.remote.connection()
    for name in names:
        with suppress(FileNotFoundError):  # an attempt whose answer got lost
            home.attempt(f"remove {name}", files.rm_file, f"{root}/{name}")
        home.remote.drop(name)
