"""A store in, scores/<scorer>/ out: one Parquet file per shard.

A file is written whole when its rows are scored, so a killed call goes on where it was; the scores of one shard are in
memory.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from discl.data.reference import labels_by_name
from discl.errors import StoreError
from discl.filtering.scores import ShardScores, scores_folder
from discl.judge import clip_digest
from discl.labels import unknown_class
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine, Record
from discl.run_record import earlier_runs
from discl.scoring.embedder import Embedder
from discl.scoring.folder import file_name, open_folder, remove_strangers, write
from discl.scoring.pictures import Block, Picture
from discl.scoring.request import ScoreRequest
from discl.store import Store, manifest
from discl.store.columns import classes
from discl.store.index import scan
from discl.store.records import ShardImages

if TYPE_CHECKING:
    from discl.cluster.connection import Cluster
    from discl.data import DataTable

ROWS = 4096  # scored together where no image is decoded
KNOWN = ["key", "class_id", "class_name", "source_id", "shard", "offset", "length", "crc32c"]


def score_store(
    path: str | os.PathLike, request: ScoreRequest, on_event: OnEvent = ignore, cluster: "Cluster | None" = None
) -> Path:
    """Score every image of a store into STORE/scores/<name>/; returns that folder.

    Embeddings that this very CLIP made when the images were are scored as they are, without pixels; else images are
    decoded. Shards that are scored already by the same definition are passed over. cluster: whose workers score, shard
    by shard, where the store's folder is on a disk that all see. Raises StoreError for an empty
    store and for embeddings of another width than the scorer's; ConfigError for texts that tell no classes apart.
    """
    store = Store(path)
    names = _competing(store, request.data)
    record = Quarantine(store.path, 1, 1.0).record
    meter = Meter("score", len(store), on_event)
    scoring = None if cluster else StoreScoring(store, request, record)
    digest = scoring.judge.scorer.digest if scoring else clip_digest(request.clip)
    definition = request.definition(digest, names)
    folder = open_folder(store.path, request.name, definition)
    done = ShardScores(store, request.name)
    due = [shard for shard in store.shards if done.read(shard) is None]
    meter.done = len(store) - sum(shard.rows for shard in due)
    if scoring:
        scoring.score(due, meter)
    elif cluster and due:
        from discl.cluster.scoring import score_on

        score_on(cluster, store, request, definition["digest"], due, record, meter)
    remove_strangers(folder, {file_name(shard.number) for shard in store.shards})
    return folder


class StoreScoring:
    """What it takes to score a store's shards: the judge, loaded once. Raises as `score_store` does."""

    def __init__(self, store: Store, request: ScoreRequest, record: Record) -> None:
        self._store, self._request = store, request
        names = _competing(store, request.data)
        self.judge = request.judge(names, record)
        self._embedder = Embedder(self.judge.scorer, record, on_cpu=self.judge.classifier is not None)
        self._reuse = not request.pixels and _made_by(store, self.judge.scorer.digest)
        _check_widths(store, self.judge.scorer.width) if self._reuse else None
        self._numbers = labels_by_name(names)

    @property
    def definition(self) -> dict[str, Any]:
        return self._request.definition(self.judge.scorer.digest, self.judge.class_names)

    def score(self, shards: Iterable[manifest.Shard], meter: Meter) -> None:
        """Write each shard's scores, whole or not at all."""
        folder = scores_folder(self._store.path, self._request.name)
        parts: list[pa.Table] = []
        with closing(self._embedder.embed(self._blocks(shards))) as blocks:
            for block in blocks:
                shard, batch = block.rows
                parts.append(self._scores(block, batch))
                if sum(map(len, parts)) == shard.rows:
                    write(folder / file_name(shard.number), parts)
                    parts = []
                meter.advance(count=len(batch))

    def _blocks(self, shards: Iterable[manifest.Shard]) -> Iterator[Block]:
        """Rows in order: (shard, index batch), with a picture where an embedding lacks or a classifier looks."""
        width, looked_at = self.judge.scorer.width, self.judge.classifier is not None
        for shard in shards:
            vectors = self._store.shard_embeddings(shard) if self._reuse else None
            stored = _ShardPictures(self._store, shard)
            complete = vectors is not None and np.isfinite(vectors).all()
            rows = ROWS if complete and not looked_at else self._embedder.rows
            start = 0
            for batch in scan(self._store.path, [shard], KNOWN, None, rows):
                embedded = np.full((len(batch), width), np.nan, np.float32)
                if vectors is not None:
                    embedded[:] = vectors[start : start + len(batch)]
                wanted = [looked_at or not np.isfinite(vector).all() for vector in embedded]
                yield Block((shard, batch), stored.of(batch, wanted), embedded)
                start += len(batch)

    def _scores(self, block: Block, batch: pa.RecordBatch) -> pa.Table:
        labels = np.array([self._numbers[name] for name in classes(batch).to_pylist()])
        return self.judge.scored({"key": batch["key"]}, block, labels, batch["source_id"].to_pylist())


class _ShardPictures:
    """The images of a shard, to be read in any thread. The shard is opened for the first."""

    def __init__(self, store: Store, shard: manifest.Shard) -> None:
        self._name = manifest.shard_path(shard.number)
        self._opened = cache(lambda: ShardImages(store.path, shard.number))

    def of(self, batch: pa.RecordBatch, wanted: list[bool]) -> list[Picture | None]:
        rows = [row if want and row["shard"] is not None else None
                for row, want in zip(batch.to_pylist(), wanted, strict=True)]  # fmt: skip
        if any(rows):
            with suppress(OSError, RuntimeError, IndexError):  # which each picture meets again, and tells
                self._opened()
        return [row and self._picture(row) for row in rows]

    def _picture(self, row: dict[str, Any]) -> Picture:
        return Picture(f"{self._name}/{row['key']}", lambda: self._opened().read(row)[0] or b"", f"sample {row['key']}")


def _classes(store: Store) -> list[str]:
    """Names, in the order of the lowest numbers that they had. StoreError for an empty store."""
    lowest: dict[str, tuple[bool, int]] = {}
    for batch in store.scan(["class_id", "class_name"]):
        found = (
            pa.table({"name": classes(batch), "number": batch["class_id"]})
            .group_by("name")
            .aggregate([("number", "min")])
        )
        for name, number in zip(found["name"].to_pylist(), found["number_min"].to_pylist(), strict=True):
            place = number is None, number or 0
            lowest[name] = min(place, lowest.get(name, place))
    if not lowest:
        raise StoreError(f"{store.name} is empty: there is nothing to score; run `discl generate` first")
    return sorted(lowest, key=lambda name: (lowest[name], name))


def _competing(store: Store, data: "DataTable | None") -> list[str]:
    """The classes that compete: the data's where it is given, else those with an image in the store."""
    names = _classes(store)
    strange = set(names) - set(labels_by_name(data.class_names)) if data else set()
    if strange:
        raise unknown_class(min(strange), "which the store has; give the config it was made with")
    return list(data.class_names) if data else names


def _made_by(store: Store, digest: str) -> bool:
    """Whether every run of the store scored with this CLIP, so that its kept embeddings are this CLIP's."""
    if not any(manifest.embeddings_path(shard.number) in shard.files for shard in store.shards):
        return False
    runs = earlier_runs(store.path)
    return bool(runs) and all((run.get("scorer") or {}).get("digest") == digest for run in runs)


def _check_widths(store: Store, width: int) -> None:
    for shard in store.shards:
        vectors = store.shard_embeddings(shard)
        if vectors is not None and vectors.shape[1] != width:
            raise StoreError(
                f"{store.name}: shard {shard.number:06d} has embeddings of {vectors.shape[1]} numbers, this CLIP "
                f"makes {width}: they are of another CLIP; add --pixels"
            )
