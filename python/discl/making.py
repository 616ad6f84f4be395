"""The engine's samples in, the store's rows and encoded images out, in the order in which they finish.

Encoding runs in threads beside the engine; rows are written by one thread, in order.
"""

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from discl.config import RunConfig, StoreConfig
from discl.data import DataTable
from discl.feed import Feed
from discl.plan import Plan, PlannedSample
from discl.progress import Meter
from discl.prompts import class_embeddings
from discl.recorded import ends, is_accepted
from discl.sizes import Size, brought_back
from discl.store.encode import encode_image

if TYPE_CHECKING:
    from discl.engine import Engine, Sample
    from discl.store import StoreWriter

ENCODERS = len(os.sched_getaffinity(0))
ENCODE_AHEAD = 2 * ENCODERS  # images that may wait between the engine and the store
OWN_SIZE = "own"  # the size policy of a run without [spectrum] size
Margin = Callable[["np.ndarray | None", int], "float | None"]


class Finished(NamedTuple):
    """A judged sample on its way to the store; `encoded` is None where the image is not kept."""

    row: dict[str, Any]
    embedding: np.ndarray | None
    accepted: bool
    encoded: Future | None


@dataclass
class Making:
    """What turns samples into rows: whoever runs an engine for a store has one."""

    config: RunConfig
    plan: Plan
    table: DataTable
    writer: "StoreWriter"
    run_id: str
    counts: Counter[str] = field(default_factory=Counter, kw_only=True)
    levels: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter), kw_only=True)
    seconds: defaultdict[str, float] = field(
        default_factory=lambda: defaultdict(float), kw_only=True
    )  # this thread's, by stage

    def make(self, engine: "Engine", feed: Feed, margin: Margin, meter: Meter) -> Iterator["Sample"]:
        """Make a feed's samples, append those that the store lacks, and yield each without its image."""
        waiting: deque[Finished] = deque()
        with ThreadPoolExecutor(ENCODERS) as pool:
            for sample in engine.run(feed):
                finished, follow_ups = self._judge(sample, feed, margin, pool)
                meter.total += follow_ups
                sample.image = None  # its bytes are on their way to the store, and callers may keep many samples
                if finished.row["key"] in self.writer.keys:
                    meter.advance(finished.accepted)
                else:
                    waiting.append(finished)
                while len(waiting) > ENCODE_AHEAD or (waiting and _ready(waiting[0])):
                    self._write(waiting.popleft(), meter)
                yield sample
            while waiting:
                self._write(waiting.popleft(), meter)

    def _judge(self, sample: "Sample", feed: Feed, margin: Margin, pool: ThreadPoolExecutor) -> tuple[Finished, int]:
        """The sample's row and image to store, and how many follow-ups it asks for."""
        planned = feed.planned(sample.request)
        store, score = self.config.store, self.config.score
        result = (score, planned, sample.status, sample.text_score)
        accepted = is_accepted(*result)
        follow_ups = feed.finish(planned, sample.request, settled=ends(*result))
        size = self._final_size(sample)
        row = {
            **index_row(planned, sample, self.plan.recipe_digest),
            "width": size and size[0],
            "height": size and size[1],
            "size_policy": self.config.spectrum.size_policy if self.config.spectrum.size else OWN_SIZE,
            "run_id": self.run_id,
            "margin": margin(sample.embedding, planned.class_id),
            **{name: values[planned.row] for name, values in self.table.columns.items()},
        }
        kept = sample.status == "ok" and store.keep != "scores" and (accepted or store.keep == "all")
        encoded = pool.submit(_encode, sample.image, size, store) if kept and size else None
        return Finished(row, sample.embedding, accepted, encoded), follow_ups

    def _final_size(self, sample: "Sample") -> Size | None:
        """The size that the image is kept at: as it was made, or the source's own where that was enlarged for it."""
        if sample.image is None:
            return None
        if self.config.spectrum.upscale > 1:
            return sample.request.image.size
        height, width = sample.image.shape[:2]
        return width, height

    def _write(self, finished: Finished, meter: Meter) -> None:
        began = time.perf_counter()
        image = finished.encoded.result() if finished.encoded else None
        encoded = time.perf_counter()
        self.writer.append(finished.row, image, self.config.store.format, finished.embedding)
        self.seconds["image-encode"] += encoded - began
        self.seconds["write"] += time.perf_counter() - encoded
        self.counts[finished.row["status"]] += 1
        self.counts["accepted"] += finished.accepted
        self.levels[finished.row["level"]].update(made=1, accepted=int(finished.accepted))
        self.counts["retried"] += finished.row["retry"] >= self.plan.attempts.best_of
        meter.advance(finished.accepted)


def _encode(image: np.ndarray, size: Size, store: StoreConfig) -> bytes:
    height, width = image.shape[:2]
    fitting = image if (width, height) == size else brought_back(image, size)
    return encode_image(fitting, store.format, store.quality)


def _ready(finished: Finished) -> bool:
    return finished.encoded is None or finished.encoded.done()


def index_row(planned: PlannedSample, sample: "Sample", recipe: str) -> dict[str, Any]:
    """The index columns of design 4 that planning and the engine know."""
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
        "attempt_of": planned.attempt_of,
        "noise_seed": planned.noise_seed,
        "prompt": planned.prompt,
        "text_score": sample.text_score,
        "image_score": sample.image_score,
        "status": sample.status,
        "reason": sample.reason,
        "control": sample.control,
        "rejected_at": sample.rejected_at,
    }


def margin_of(engine: "Engine", config: RunConfig, class_names: tuple[str, ...]) -> Margin:
    """A function: embedding [D], class id -> text score minus the best other class's; None where unscored."""
    if config.score is None:
        return lambda embedding, class_id: None
    import torch

    from discl.kernels import cosine_scores

    texts = class_embeddings(engine.scorer, config.score.prompt, class_names, "score.prompt").cpu()

    def margin(embedding: np.ndarray | None, class_id: int) -> float | None:
        if embedding is None:
            return None
        image, label = torch.from_numpy(embedding)[None], torch.tensor([class_id])
        return cosine_scores(image, texts, label, None, 0.0)[2].item()

    return margin
