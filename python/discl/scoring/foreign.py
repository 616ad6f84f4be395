"""Images that are in no store in, OUT/scores/<scorer>/ out: one Parquet file per `BLOCK` images."""

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from discl.data.images import decode_image
from discl.errors import DataError, StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine, Record
from discl.scoring.judge import Judge
from discl.scoring.score import AT_ONCE, BLOCK, ScoreRequest, embed, judge_for, judged, open_folder, write
from discl.store.foreign import KINDS

if TYPE_CHECKING:
    from PIL import Image


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
    names = sorted(
        {found.row.get("class_name") or str(found.row.get("class_id", "")) for found in KINDS[kind](Path(source))}
    )
    if not names:
        raise StoreError(f"{source}: no image for kind {kind!r}")
    record = Quarantine(out, 1, 1.0).record
    judge = judge_for(request, names, record)
    folder = open_folder(Path(out), request.name, request.definition(judge.scorer.digest, names))
    numbers = {name: at for at, name in enumerate(names)}
    meter = Meter("score", 0, on_event)
    images = KINDS[kind](Path(source))
    block = 0
    while True:
        file = folder / f"{block:06d}.parquet"
        pieces = iter(lambda: list(islice(images, AT_ONCE)), [])
        if file.is_file():
            skipped = sum(1 for _ in islice(images, BLOCK))
            meter.done += skipped
            if skipped < BLOCK:
                return folder
        else:
            parts = [_foreign(piece, judge, numbers, record, meter) for piece in islice(pieces, BLOCK // AT_ONCE)]
            if parts:
                write(file, parts)
            if sum(map(len, parts)) < BLOCK:
                return folder
        block += 1


def _foreign(piece: list, judge: Judge, numbers: dict[str, int], record: Record, meter: Meter) -> pa.Table:
    embedded = np.full((len(piece), judge.scorer.width), np.nan, np.float32)
    images: list[Image.Image | None] = [None] * len(piece)
    for at, found in enumerate(piece):
        try:
            images[at] = decode_image(found.image, found.name)
        except DataError as error:
            record([(found.name, str(error))])
    embed(judge, images, embedded)
    names = [found.row.get("class_name") or str(found.row.get("class_id", "")) for found in piece]
    first = {
        "path": pa.array([found.name for found in piece], pa.string()),
        "class_name": pa.array(names, pa.string()),
        "level": pa.array([found.row.get("level") for found in piece], pa.int32()),
        "seed": pa.array([found.row.get("seed") for found in piece], pa.int64()),
    }
    meter.done += len(piece) - 1
    meter.total = meter.done + 2  # nobody knows how many there are
    meter.advance()
    rows = [{"source_id": found.name} for found in piece]
    return judged(judge, embedded, np.array([numbers[name] for name in names]), rows, images, first)
