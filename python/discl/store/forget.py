"""Source ids in, a store without a trace of them out: variants, scores, embeddings, selected keys, quarantine lines."""

import io
import json
import os
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discl.atomic import remove_leftovers, write_atomic
from discl.errors import StoreError
from discl.progress import OnEvent, ignore
from discl.store import manifest
from discl.store.index import open_index
from discl.store.keys import Keys
from discl.store.reader import Store
from discl.store.rewrite import rewriting
from discl.store.selections import decode_selection, encode_selection

SHARD_BYTES = 256_000_000
BEGUN = ".forgetting"  # which sources, as a digest: a killed call is known by it, and it goes with the last trace

REMOVED = "(removed: it named a source that was forgotten)"


def forget(
    path: str | os.PathLike, sources: Iterable[str], shard_bytes: int = SHARD_BYTES, on_event: OnEvent = ignore,
    doubtful: Iterable[str] = (),
) -> int:  # fmt: skip
    """Remove every sample of these source ids, and what else the store knows of them; returns how many samples.

    A sample goes when any of its `source_ids` is named: equal images of two sources were one. Shards with such a
    sample are written anew, the others stay; a killed call is finished by the same call. Snapshots with a forgotten
    sample cannot be opened again. Trainings' outputs, reports outside the store, and what a bucket keeps as earlier
    versions of its objects are not touched.

    doubtful: further ones, which may be misspelt. StoreError where the store has no sample of one, unless a call that
    was killed had begun to forget just these sources.
    """
    ids = frozenset(sources).union(doubtful)
    identity = blake2b("\n".join(sorted(ids)).encode(), digest_size=16).hexdigest()
    with rewriting(path) as store:
        root = store.root
        mark = root / BEGUN
        if not (mark.is_file() and mark.read_text() == identity):
            _refuse_unknown(os.fspath(path), root, doubtful)
            write_atomic(mark, identity.encode())
        counts = {shard.number: _count(root, shard, ids) for shard in manifest.sealed_shards(root)}
        touched = [shard for shard in manifest.sealed_shards(root) if counts[shard.number]]
        if touched:
            keep = lambda row: not _is_of(row, ids)  # noqa: E731
            store.rewrite("forget", touched, keep, shard_bytes, parameters=identity, on_event=on_event)
        store.sweep()
        if store.home:
            store.home.watch_over("scores/*/*.parquet", "runs/*.hard.txt")
        prune(root)
        _clean_quarantine(root / "quarantine.jsonl", ids)
        for file in sorted(root.glob("runs/*.hard.txt")):
            _clean_list(file, ids)
        for file in sorted(root.glob("runs/*.json")):
            _clean_record(file, ids)
        _remove_torn(root)
        mark.unlink()
    return sum(counts.values())


def _refuse_unknown(name: str, root: Path, sources: Iterable[str]) -> None:
    for source in sorted(frozenset(sources) - known(root, sources)):
        raise StoreError(f"source {source}: neither a source id in {name} nor a file of source ids, one per line")


def known(path: str | os.PathLike, sources: Iterable[str]) -> frozenset[str]:
    """Those of these source ids of which the store has samples."""
    asked, found = frozenset(sources), set[str]()
    if not asked:
        return asked
    for batch in Store(path).scan(["source_id", "source_ids"]):
        for row in batch.to_pylist():
            found |= asked.intersection([row["source_id"], *(row["source_ids"] or ())])
    return frozenset(found)


def _is_of(row: dict[str, Any], ids: frozenset[str]) -> bool:
    return row["source_id"] in ids or not ids.isdisjoint(row["source_ids"] or ())


def _count(root: Path, shard: manifest.Shard, ids: frozenset[str]) -> int:
    batches = open_index(root, shard).iter_batches(columns=["source_id", "source_ids"], use_threads=False)
    return sum(_is_of(row, ids) for batch in batches for row in batch.to_pylist())


def prune(root: Path) -> None:
    """Selections and further scores lose the keys that the store no longer has."""
    keys = Keys(Store(root).keys())
    for file in sorted([*root.glob("selections/*.parquet"), *root.glob("scores/*/*.parquet")]):
        pruned = _pruned_selection(file, keys) if file.parent.name == "selections" else _pruned_scores(file, keys)
        if pruned is not None:
            write_atomic(file, pruned)


def _pruned_selection(file: Path, keys: Keys) -> bytes | None:
    """None where nothing has to go."""
    chosen, rule = decode_selection(file.read_bytes(), str(file))
    kept = [key for key in chosen if key in keys]
    return encode_selection(kept, rule) if len(kept) < len(chosen) else None


def _pruned_scores(file: Path, keys: Keys) -> bytes | None:
    with pq.ParquetFile(file) as opened:
        table = opened.read(use_threads=False)
    there = [key in keys for key in table["key"].to_pylist()]
    if all(there):
        return None
    buffer = io.BytesIO()
    pq.write_table(table.filter(pa.array(there, pa.bool_())), buffer)
    return buffer.getvalue()


def _remove_torn(root: Path) -> None:
    """What killed processes left of writing any of the above."""
    for folder in (root / "selections", root / "runs", root / "manifest", *root.glob("scores/*")):
        remove_leftovers(folder, older_than_s=0)
    for file in (*root.glob(".quarantine.jsonl.*.tmp"), *root.glob(f".{BEGUN}.*.tmp")):
        file.unlink()


def _clean_list(file: Path, ids: frozenset[str]) -> None:
    """A run's list of hard images loses the forgotten ones."""
    gone = {source.encode("utf-8", "surrogateescape") for source in ids}
    lines = file.read_bytes().split(b"\n")  # a damaged one is nobody's
    kept = [line for line in lines if line not in gone]
    if len(kept) < len(lines):
        write_atomic(file, b"\n".join(kept))


def _clean_record(file: Path, ids: frozenset[str]) -> None:
    """A run's record no longer says why the run or a worker of it failed, where that names one of the ids."""
    try:
        record = json.loads(file.read_bytes())
        texts = [(record, "failure"), *((error, "reason") for error in record.get("errors") or ())]
        telling = [(place, name) for place, name in texts if _names(str(place.get(name) or ""), ids)]
    except (ValueError, AttributeError, TypeError):  # no record of ours
        return
    for place, name in telling:
        place[name] = REMOVED
    if telling:
        write_atomic(file, json.dumps(record, indent=1, ensure_ascii=False).encode())


def _names(text: str, ids: frozenset[str]) -> bool:
    """Whether one of the ids stands in the text, by itself or as the end of a path."""
    whole = r"(?<![\w.-]){}(?![\w-])"
    spelt = {*ids, *(repr(source)[1:-1] for source in ids)}  # lists of ids stand there as Python writes them
    return any(each in text and re.search(whole.format(re.escape(each)), text) for each in spelt)


def _clean_quarantine(file: Path, ids: frozenset[str]) -> None:
    """Drop the lines about files that are one of the ids, or end in one: an id is a path below the data's root."""
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if not _is_about(line, ids)]
    if len(kept) < len(lines):
        write_atomic(file, "".join(f"{line}\n" for line in kept).encode())


def _is_about(line: str, ids: frozenset[str]) -> bool:
    """A line that cannot be parsed may be about anybody: it goes."""
    try:
        parts = Path(json.loads(line)["path"]).parts
    except (ValueError, KeyError, TypeError):
        return True
    return any("/".join(parts[at:]).lstrip("/") in ids for at in range(len(parts))) or "/".join(parts) in ids
