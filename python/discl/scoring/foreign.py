"""Images that are in no store in, OUT/scores/<scorer>/ out: one Parquet file per `BLOCK` images."""

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from discl.errors import StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine
from discl.scoring.embedder import Embedder
from discl.scoring.folder import file_name, open_folder, write
from discl.scoring.judge import Judge
from discl.scoring.pictures import Block, Picture
from discl.scoring.request import ScoreRequest
from discl.store.foreign import KINDS, Found

BLOCK = 4096  # images per file


def score_images(
    source: str | os.PathLike, kind: str, out: str | os.PathLike, request: ScoreRequest, on_event: OnEvent = ignore
) -> Path:
    """Score images that are in no store into OUT/scores/<name>/; kinds as for `discl store import`.

    Rows are (path, class_name, level, seed) with their scores, in the order in which the images lie, `BLOCK` to a
    file; whole files of an earlier call are passed over. What cannot be decoded has a `reason` in its row and a line in
    OUT/quarantine.jsonl. Classes are those that occur, by name, else by number; ConfigError for images without either.
    """
    if kind not in KINDS:
        raise StoreError(f"kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if not Path(source).exists():
        raise StoreError(f"{source}: there is nothing to score; check the path")
    names = sorted({_class_name(found) for found in KINDS[kind](Path(source))})
    if not names:
        raise StoreError(f"{source}: no image for kind {kind!r}")
    record = Quarantine(out, 1, 1.0).record
    judge = request.judge(names, record)
    folder = open_folder(Path(out), request.name, request.definition(judge.scorer.digest, names))
    numbers = {name: at for at, name in enumerate(names)}
    meter = Meter("score", 0, on_event)
    embedder = Embedder(judge.scorer, record, on_cpu=judge.classifier is not None)
    parts: list[pa.Table] = []
    with closing(embedder.embed(_due(KINDS[kind](Path(source)), folder, embedder.rows, judge.scorer.width))) as blocks:
        for block in blocks:
            file, before, found = block.rows
            parts.append(_scores(block, found, judge, numbers))
            if sum(map(len, parts)) == BLOCK:
                write(file, parts)
                parts = []
            meter.done = before + len(found) - 1
            meter.advance()
    if parts:
        write(file, parts)
    return folder


def _class_name(found: Found) -> str:
    return found.row.get("class_name") or str(found.row.get("class_id", ""))


def _due(images: Iterator[Found], folder: Path, rows: int, width: int) -> Iterator[Block]:
    """Blocks of those whose file is not there yet: (file, images before them, images)."""
    for number in count():
        file, before = folder / file_name(number), number * BLOCK
        of_file = islice(images, BLOCK)
        if file.is_file():
            before += sum(1 for _ in of_file)
        while found := list(islice(of_file, rows)):
            pictures: list[Picture | None] = [Picture(each.name, each.read) for each in found]
            yield Block((file, before, found), pictures, np.full((len(found), width), np.nan, np.float32))
            before += len(found)
        if before < (number + 1) * BLOCK:
            return


def _scores(block: Block, found: list[Found], judge: Judge, numbers: dict[str, int]) -> pa.Table:
    names = [_class_name(each) for each in found]
    first = {
        "path": pa.array([each.name for each in found], pa.string()),
        "class_name": pa.array(names, pa.string()),
        "level": pa.array([each.row.get("level") for each in found], pa.int32()),
        "seed": pa.array([each.row.get("seed") for each in found], pa.int64()),
    }
    return judge.scored(first, block, np.array([numbers[name] for name in names]), [each.name for each in found])
