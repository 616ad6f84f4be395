"""A store in, a list of what is wrong with it out: every byte of every sealed shard is read."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from discl import _C
from discl.errors import StoreError
from discl.store import manifest
from discl.store.columns import KEY
from discl.store.embeddings import read_embeddings
from discl.store.encode import FORMATS
from discl.store.index import read_index
from discl.store.reader import Store


def verify(path: str | os.PathLike) -> list[str]:
    """Problems of the sealed shards, one line each; empty when all is well. StoreError if it is no store.

    Checked: manifest entries against files (size, digest), tar structure and names, image CRCs, index
    against tar, index against embeddings, keys that occur twice; selections against their digests. Unsealed shards are
    not damage: the next writer recovers them.
    """
    store = Store(path)
    problems: list[str] = []
    keys: Counter[str] = Counter()
    for shard in store.shards:
        try:
            root = store.local(shard)
        except StoreError as error:  # a remote store's copy that never came right
            problems.append(str(error))
            continue
        problems += [f"shard {shard.number:06d}: {problem}" for problem in shard_problems(root, shard)]
        keys.update(_keys(root, shard))
    problems += [f"key {key} occurs {count} times" for key, count in sorted(keys.items()) if count > 1]
    return problems + list(_selection_problems(store))


def _selection_problems(store: Store) -> Iterator[str]:
    for name in store.names("selections"):
        if name.endswith(".parquet"):
            try:
                store.selection_rule(name.removesuffix(".parquet"))
            except StoreError as error:
                yield str(error)


def shard_problems(root: Path, shard: manifest.Shard) -> list[str]:
    """What is wrong with one sealed shard by itself."""
    problems = []
    for check in (_file_problems, _index_problems, _tar_problems, _embedding_problems):
        try:
            problems += check(root, shard)
        except (OSError, RuntimeError, ValueError, KeyError, IndexError, StoreError) as error:
            problems.append(str(error))
    return problems


def _index(root: Path, shard: manifest.Shard) -> pa.Table:
    return read_index(root, shard)


def _keys(root: Path, shard: manifest.Shard) -> list[str]:
    try:
        return _index(root, shard)["key"].to_pylist()
    except (StoreError, KeyError):  # named by _index_problems already
        return []


def _file_problems(root: Path, shard: manifest.Shard) -> list[str]:
    found = ((name, _file_problem(root / name, entry)) for name, entry in shard.files.items())
    return [f"{name} {problem}" for name, problem in found if problem]


def _file_problem(path: Path, entry: dict) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry["bytes"]:  # before it is read: it may be of any size
        return f"has {path.stat().st_size} bytes, the manifest says {entry['bytes']}"
    found = manifest.file_entry(path, "crc32c" if "crc32c" in entry else "blake2b")
    return None if found == entry else f"has size and digest {found}, the manifest says {entry}"


def _index_problems(root: Path, shard: manifest.Shard) -> list[str]:
    """Columns and rows are checked when it is opened."""
    table = _index(root, shard)
    images = table.num_rows - table["shard"].null_count
    return [] if images == shard.images else [f"{images} images, the manifest says {shard.images}"]


def _tar_problems(root: Path, shard: manifest.Shard) -> list[str]:
    """The tar holds exactly the index's images in its order, each followed by its JSON; CRCs agree."""
    reader = _C.ShardReader(str(root / manifest.shard_path(shard.number)))
    members = reader.members()
    problems = [f"tar member {name!r} does not belong there" for name, _, _ in members if not _is_ours(name)]
    images, rows = members[0::2], [row for row in _places(_index(root, shard)) if row["shard"] is not None]
    pairs_match = [Path(name).stem + ".json" for name, _, _ in images] == [name for name, _, _ in members[1::2]]
    if not pairs_match or len(images) != len(rows):
        return [*problems, f"the tar has {len(members)} members for {len(rows)} images of the index"]
    for (name, offset, length), row in zip(images, rows, strict=True):
        problems += _image_problems(reader, name, (shard.number, offset, length), row)
    return problems


def _is_ours(name: str) -> bool:
    key, _, extension = name.partition(".")
    return bool(KEY.fullmatch(key)) and extension in (*FORMATS, "json")


def _places(table: pa.Table) -> list[dict]:
    return table.select(["key", "shard", "offset", "length", "crc32c"]).to_pylist()


def _image_problems(reader: _C.ShardReader, name: str, place: tuple[int, int, int], row: dict) -> list[str]:
    if Path(name).stem != row["key"] or place != (row["shard"], row["offset"], row["length"]):
        return [f"the tar has {name} at {place}, the index says {row}"]
    try:
        reader.read(row["offset"], row["length"], row["crc32c"])
    except RuntimeError as error:
        return [f"sample {row['key']}: {error}"]
    return []


def _embedding_problems(root: Path, shard: manifest.Shard) -> list[str]:
    name = manifest.embeddings_path(shard.number)
    if name not in shard.files:
        return []
    read_embeddings(root / name, shard.rows)
    return []
