"""Images that are in no store in, OUT/scores/<scorer>/ out: one Parquet file per `BLOCK` images."""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from discl.errors import StoreError
from discl.progress import Meter, OnEvent, ignore
from discl.quarantine import Quarantine
from discl.scoring.embedder import Embedder
from discl.scoring.folder import file_name, open_folder, remove_strangers, state_of, write
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
    file; files of an earlier call are passed over where their images have not changed. What cannot be decoded has a
    `reason` in its row and a line in OUT/quarantine.jsonl. Classes are those that occur, by name, else by number;
    ConfigError for images without either.
    """
    if kind not in KINDS:
        raise StoreError(f"kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if not Path(source).exists():
        raise StoreError(f"{source}: there is nothing to score; check the path")
    names, states = _surveyed(KINDS[kind](Path(source)))
    if not names:
        raise StoreError(f"{source}: no image for kind {kind!r}")
    record = Quarantine(out, 1, 1.0).record
    judge = request.judge(names, record)
    folder = open_folder(Path(out), request.name, request.definition(judge.scorer.digest, names))
    remove_strangers(folder, {file for file, state in states.items() if state_of(folder / file) == state})
    numbers = {name: at for at, name in enumerate(names)}
    meter = Meter("score", 0, on_event)
    embedder = Embedder(judge.scorer, record, on_cpu=judge.classifier is not None)
    parts: list[pa.Table] = []
    with closing(embedder.embed(_due(KINDS[kind](Path(source)), folder, embedder.rows, judge.scorer.width))) as blocks:
        for block in blocks:
            file, before, found = block.rows
            parts.append(_scores(block, found, judge, numbers))
            if sum(map(len, parts)) == BLOCK:
                write(file, parts, states.get(file.name, ""))
                parts = []
            meter.done = before + len(found) - 1
            meter.advance()
    if parts:
        write(file, parts, states.get(file.name, ""))
    return folder


def _surveyed(images: Iterator[Found]) -> tuple[list[str], dict[str, str]]:
    """The classes that occur, sorted; by name, a digest of the images that each file of scores is to be of."""
    names: set[str] = set()
    digests: dict[str, Any] = {}
    for at, found in enumerate(images):
        names.add(_class_name(found))
        digest = digests.setdefault(file_name(at // BLOCK), blake2b(digest_size=16))
        with suppress(OSError):  # it is met again, and told, when it is read
            digest.update(found.state.encode())
    return sorted(names), {name: digest.hexdigest() for name, digest in digests.items()}


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
            pictures: list[Picture | None] = [Picture(each.place, each.read) for each in found]
            yield Block((file, before, found), pictures, np.full((len(found), width), np.nan, np.float32))
            before += len(found)
        if before < (number + 1) * BLOCK:
            return


def _scores(block: Block, found: list[Found], judge: Judge, numbers: dict[str, int]) -> pa.Table:
    names = [_class_name(each) for each in found]
    first = {
        "path": pa.array([each.place for each in found], pa.string()),
        "class_name": pa.array(names, pa.string()),
        "level": pa.array([each.row.get("level") for each in found], pa.int32()),
        "seed": pa.array([each.row.get("seed") for each in found], pa.int64()),
    }
    return judge.scored(first, block, np.array([numbers[name] for name in names]), [each.name for each in found])
