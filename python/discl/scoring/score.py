"""A store in, scores/<scorer>/ out: one Parquet file per shard.

A file is written whole when its rows are scored, so a killed call goes on where it was; one shard's worth is in memory.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discl.atomic import write_atomic
from discl.data.images import decode_image
from discl.errors import DataError, StoreError
from discl.filtering.scores import DEFINITION, ShardScores, scores_folder
from discl.judge import clip_digest
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine, Record
from discl.run_record import earlier_runs
from discl.scoring.judge import Judge
from discl.store import Store, manifest
from discl.store.columns import classes
from discl.store.index import scan
from discl.store.records import ShardImages

if TYPE_CHECKING:
    from PIL import Image

    from discl.cluster.connection import Cluster
    from discl.data import DataTable
    from discl.engine.scorer import Scorer

log = logging.getLogger(__name__)

BLOCK = 4096  # rows scored together, and images from elsewhere per file
AT_ONCE = 256  # images decoded together
KNOWN = ["key", "class_id", "class_name", "source_id", "shard", "offset", "length", "crc32c"]


@dataclass(frozen=True)
class ScoreRequest:
    """Which CLIP judges by which texts.

    name: of scores/<name>/. clip: as [score] clip. pixels: decode images also where embeddings of this CLIP are kept.
    data: real images for image, centroid and leakage scores; its classes then compete for margin and rank, else those
    of the store. classifier: a training's folder, for confidence. backend: runs both towers, as [model] backend;
    exported: the folder that `discl export` wrote for it with this CLIP.
    """

    name: str
    clip: str
    prompt: str = "a photo of a {class}"
    negatives: tuple[str, ...] = ()
    pixels: bool = False
    data: "DataTable | None" = None
    classifier: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 64
    backend: str = "torch"
    exported: str | None = None

    def scorer(self) -> "Scorer":
        import torch

        from discl.engine.backends import open_backend
        from discl.engine.options import find_device
        from discl.engine.scorer import Scorer

        device = find_device(self.device)
        backend = open_backend(self.backend, device, self.exported)
        return Scorer.from_pretrained(self.clip, device, getattr(torch, self.dtype), self.batch, backend)

    def definition(self, clip_digest: str, class_names: list[str]) -> dict[str, Any]:
        """What the scores depend on; `digest` tells whether files of an earlier call still hold."""
        from discl.scoring.classifier import state_of

        ids = (
            None if self.data is None else hashlib.blake2b("\n".join(self.data.ids).encode(), digest_size=8).hexdigest()
        )
        facts = {
            "clip": self.clip,
            "clip_digest": clip_digest,
            "prompt": self.prompt,
            "negatives": list(self.negatives),
            "classes": class_names,
            "pixels": self.pixels,
            "dtype": self.dtype,
            "real_images": ids,
            "classifier": state_of(self.classifier) if self.classifier else None,
        }
        if self.backend != "torch":
            facts["backend"] = self.backend
        return facts | {"digest": hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()}


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
        for shard in due:
            scoring.score(shard, meter)
    elif cluster and due:
        from discl.cluster.scoring import score_on

        score_on(cluster, store, request, definition["digest"], due, record, meter)
    _remove_strangers(folder, {_file_name(shard) for shard in store.shards})
    return folder


class StoreScoring:
    """What it takes to score a store's shards: the judge, loaded once. Raises as `score_store` does."""

    def __init__(self, store: Store, request: ScoreRequest, record: Record) -> None:
        self._store, self._request, self._record = store, request, record
        names = _competing(store, request.data)
        self.judge = judge_for(request, names, record)
        self._reuse = not request.pixels and _made_by(store, self.judge.scorer.digest)
        _check_widths(store, self.judge.scorer.width) if self._reuse else None
        self._numbers = {name: number for number, name in enumerate(names)}

    @property
    def definition(self) -> dict[str, Any]:
        return self._request.definition(self.judge.scorer.digest, self.judge.class_names)

    def score(self, shard: manifest.Shard, meter: Meter) -> None:
        """Write the shard's scores, whole or not at all."""
        parts = list(_shard(self._store, shard, self.judge, self._numbers, self._reuse, self._record, meter))
        write(scores_folder(self._store.path, self._request.name) / _file_name(shard), parts)


def _file_name(shard: manifest.Shard) -> str:
    return f"{shard.number:06d}.parquet"


def judge_for(request: ScoreRequest, class_names: list[str], record: Record) -> Judge:
    scorer = request.scorer()
    judge = Judge(scorer, class_names, request.prompt, request.negatives)
    if request.data is not None:
        from discl.scoring.real import RealImages

        judge.real = RealImages(scorer, request.data, class_names, record)
    if request.classifier is not None:
        from discl.scoring.classifier import TaskClassifier

        judge.classifier = TaskClassifier(request.classifier, str(scorer.device))
    return judge


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
    strange = set(names) - set(data.class_names) if data else set()
    if strange:
        raise StoreError(
            f"the data has no class {min(strange)!r}, which the store has; give the config it was made with"
        )
    return list(data.class_names) if data else names


def open_folder(root: Path, name: str, definition: dict[str, Any]) -> Path:
    """scores/<name>/ with its definition; files of another definition are gone."""
    folder = scores_folder(root, name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / DEFINITION
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8")).get("digest") != definition["digest"]:
        _remove_strangers(folder, set())
        write_atomic(file, json.dumps(definition, indent=1, ensure_ascii=False).encode())
    return folder


def _remove_strangers(folder: Path, names: set[str]) -> None:
    for file in folder.glob("*.parquet"):
        if file.name not in names:
            file.unlink()


def _made_by(store: Store, digest: str) -> bool:
    """Whether every run of the store scored with this CLIP, so that its kept embeddings are this CLIP's."""
    kept = any(manifest.embeddings_path(shard.number) in shard.files for shard in store.shards)
    runs = earlier_runs(store.path)
    return kept and bool(runs) and all((run.get("scorer") or {}).get("digest") == digest for run in runs)


def _check_widths(store: Store, width: int) -> None:
    for shard in store.shards:
        vectors = store.shard_embeddings(shard)
        if vectors is not None and vectors.shape[1] != width:
            raise StoreError(
                f"{store.name}: shard {shard.number:06d} has embeddings of {vectors.shape[1]} numbers, this CLIP "
                f"makes {width}: they are of another CLIP; add --pixels"
            )


def _shard(
    store: Store, shard: manifest.Shard, judge: Judge, numbers: dict[str, int], reuse: bool,
    record: Record, meter: Meter,
) -> Iterator[pa.Table]:  # fmt: skip
    """Scores of a shard's rows in order."""
    vectors = store.shard_embeddings(shard) if reuse else None
    stored = cache(lambda: ShardImages(store.path, shard.number))
    start = 0
    for batch in scan(store.path, [shard], KNOWN, None, AT_ONCE if vectors is None or judge.classifier else BLOCK):
        rows = batch.to_pylist()
        embedded = np.full((len(rows), judge.scorer.width), np.nan, np.float32)
        if vectors is not None:
            embedded[:] = vectors[start : start + len(rows)]
        images: list[Image.Image | None] = [None] * len(rows)
        for at, row in enumerate(rows):
            if row["shard"] is None or (judge.classifier is None and np.isfinite(embedded[at]).all()):
                continue
            try:
                encoded, _ = stored().read(row)
                images[at] = decode_image(encoded or b"", f"sample {row['key']}")
            except (DataError, OSError, RuntimeError, IndexError) as error:
                record([(f"{manifest.shard_path(shard.number)}/{row['key']}", str(error))])
        embed(judge, images, embedded)
        labels = np.array([numbers[name] for name in classes(batch).to_pylist()])
        yield judged(judge, embedded, labels, rows, images, {"key": batch["key"]})
        start += len(rows)
        meter.done += len(rows) - 1
        meter.advance()


def embed(judge: Judge, images: "list[Image.Image | None]", embedded: np.ndarray) -> None:
    """Fill in, in place, the rows that have an image and no finite embedding."""
    lacking = [at for at, image in enumerate(images) if image is not None and not np.isfinite(embedded[at]).all()]
    if lacking:
        embedded[lacking] = judge.scorer.embed_pil([image for at in lacking if (image := images[at])]).cpu().numpy()


def judged(
    judge: Judge, embedded: np.ndarray, classes: np.ndarray, rows: list[dict], images: "list[Image.Image | None]",
    first: dict,
) -> pa.Table:  # fmt: skip
    import torch

    table = judge.table(torch.from_numpy(embedded), classes, [row.get("source_id") for row in rows], images)
    return pa.table({**first, **{name: table[name] for name in table.column_names}})


def write(file: Path, parts: Iterable[pa.Table]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(parts), buffer)
    write_atomic(file, buffer.getvalue())
