"""The engine's samples in, the store's rows and encoded images out, in the order in which they finish.

Encoding runs in threads beside the engine; rows are written by one thread, in order.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from discl.config import RunConfig
from discl.data import DataTable
from discl.plan import Plan, PlannedSample
from discl.progress import Meter, OnEvent
from discl.prompts import fill
from discl.quarantine import Quarantine
from discl.selection import accepts
from discl.store.encode import encode_image

if TYPE_CHECKING:
    from discl.engine import Engine, Request, Sample
    from discl.store import StoreWriter

ENCODERS = min(4, os.cpu_count() or 1)
ENCODE_AHEAD = 4 * ENCODERS  # images that may wait between the engine and the store
Margin = Callable[["np.ndarray | None", int], "float | None"]


class Finished(NamedTuple):
    """A judged sample on its way to the store; `encoded` is None where the image is not kept."""

    row: dict[str, Any]
    embedding: np.ndarray | None
    accepted: bool
    encoded: Future | None


@dataclass
class Job:
    """What one run makes: the planned samples that the store lacks."""

    config: RunConfig
    plan: Plan
    table: DataTable
    writer: "StoreWriter"
    quarantine: Quarantine
    run_id: str
    on_event: OnEvent
    counts: Counter[str] = field(default_factory=Counter)
    _running: dict[str, PlannedSample] = field(default_factory=dict)

    def missing(self) -> int:
        """Planned samples that the store lacks."""
        have = self.writer.keys
        return sum(planned.key not in have for planned in self.plan) if have else len(self.plan)

    def run(self, engine: "Engine", total: int) -> None:
        """Make all of them. Whatever stops this, the rows appended so far are whole."""
        meter = Meter("generate", total, self.on_event, self.config.budget.usd_per_hour)
        margin = margin_of(engine, self.config, self.table.class_names)
        waiting: deque[Finished] = deque()
        with ThreadPoolExecutor(ENCODERS) as pool:
            for sample in engine.run(self._requests()):
                waiting.append(self._judge(sample, margin, pool))
                while len(waiting) > ENCODE_AHEAD or (waiting and _ready(waiting[0])):
                    self._write(waiting.popleft(), meter)
            while waiting:
                self._write(waiting.popleft(), meter)

    def _requests(self) -> Iterator["Request"]:
        for planned, request in self.plan.due(self.writer.keys, self._bad):
            self._running[planned.key] = planned
            yield request

    def _bad(self, path: str, reason: str) -> None:
        self.on_event({"event": "quarantined", "path": path, "reason": reason})
        self.quarantine.add([(path, reason)])

    def _judge(self, sample: "Sample", margin: Margin, pool: ThreadPoolExecutor) -> Finished:
        planned = self._running.pop(sample.request.key)
        store, good = self.config.store, sample.status == "ok"
        accepted = good and accepts(self.config.score, sample.text_score, planned.class_name, planned.level)
        row = {
            **index_row(planned, sample, self.plan.recipe_digest),
            "run_id": self.run_id,
            "margin": margin(sample.embedding, planned.class_id),
            **{name: values[planned.row] for name, values in self.table.columns.items()},
        }
        kept = good and store.keep != "scores" and (accepted or store.keep == "all")
        encoded = pool.submit(encode_image, sample.image, store.format, store.quality) if kept else None
        return Finished(row, sample.embedding, accepted, encoded)

    def _write(self, finished: Finished, meter: Meter) -> None:
        image = finished.encoded.result() if finished.encoded else None
        self.writer.append(finished.row, image, self.config.store.format, finished.embedding)
        self.counts.update([finished.row["status"], *(["accepted"] if finished.accepted else [])])
        meter.advance(finished.accepted)


def _ready(finished: Finished) -> bool:
    return finished.encoded is None or finished.encoded.done()


def index_row(planned: PlannedSample, sample: "Sample", recipe: str) -> dict[str, Any]:
    """The index columns of design 4 that planning and the engine know."""
    height, width = (None, None) if sample.image is None else sample.image.shape[:2]
    return {
        "key": planned.key,
        "recipe": recipe,
        "source_id": planned.source_id,
        "source_ids": list(planned.source_ids),
        "source_digest": planned.source_digest,
        "class_id": planned.class_id,
        "class_name": planned.class_name,
        "level": planned.level,
        "seed": planned.seed,
        "retry": planned.retry,
        "noise_seed": planned.noise_seed,
        "prompt": planned.prompt,
        "text_score": sample.text_score,
        "image_score": sample.image_score,
        "status": sample.status,
        "reason": sample.reason,
        "control": False,
        "width": width,
        "height": height,
    }


def margin_of(engine: "Engine", config: RunConfig, class_names: tuple[str, ...]) -> Margin:
    """A function: embedding [D], class id -> text score minus the best other class's; None where unscored."""
    if config.score is None:
        return lambda embedding, class_id: None
    import torch

    from discl.kernels import cosine_scores

    prompt = config.score.prompt
    texts = engine.scorer.embed_texts([fill(prompt, name, "score.prompt") for name in class_names]).cpu()

    def margin(embedding: np.ndarray | None, class_id: int) -> float | None:
        if embedding is None:
            return None
        image, label = torch.from_numpy(embedding)[None], torch.tensor([class_id])
        return cosine_scores(image, texts, label, None, 0.0)[2].item()

    return margin
