"""A probe's store in, a verdict out: does this model suit this data, at which levels, with which threshold?

`discl plan --probe` asks for it. Real images are scored with the same texts: what CLIP says of these is the measure for
what it says of made ones.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from discl.config import RunConfig
from discl.data import DataTable
from discl.data.images import open_image
from discl.errors import DataError
from discl.hard import select_hard
from discl.prompts import class_embeddings
from discl.store import Store

log = logging.getLogger(__name__)

REAL = 64  # real images that are scored
REAL_QUANTILE = 0.05  # of real text scores: what nearly every real image of the class reaches
WORTHWHILE = 0.1  # share of a level's images over the suggested threshold
KNOWN = 0.5  # share of real images whose own class CLIP finds best
SMALL, ENOUGH = 128, 256  # pixels of the shorter side: enlarge sources below, to about this
SMALL_LEVELS = (50, 70, 90)  # the paper's choice for CIFAR


@dataclass(frozen=True)
class LevelFacts:
    """Of one level's probe images: shares over the suggested and the config's threshold, own class best, medians."""

    level: int
    images: int
    over_suggested: float
    over_config: float
    own_class_best: float
    text_score: float
    image_score: float


@dataclass(frozen=True)
class Suitability:
    """real_own_class: share of real images whose own class CLIP finds best; NaN of one class. suggested: threshold."""

    levels: list[LevelFacts]
    real: np.ndarray
    real_own_class: float
    suggested: float
    side: int

    @property
    def good_levels(self) -> list[int]:
        return [each.level for each in self.levels if each.over_suggested >= WORTHWHILE]

    def problems(self) -> list[str]:
        """Why the model may not suit the data; empty if nothing speaks against it."""
        found = []
        if self.real_own_class < KNOWN:
            found.append(
                f"CLIP finds the right class in only {self.real_own_class:.0%} of the real images: its scores "
                "say little here; use another [score] clip or prompt (drawings and comics often need one)"
            )
        if not self.good_levels:
            found.append("at no level do made images score like real ones: use another model, a LoRA or higher levels")
        if self.side < SMALL:
            levels = ", ".join(map(str, SMALL_LEVELS))
            found.append(
                f"sources are small ({self.side} pixels): set [spectrum] upscale = {math.ceil(ENOUGH / self.side)} and "
                f"levels = [{levels}]; images are made large and brought back"
            )
        return found

    def lines(self) -> list[str]:
        heads = ("level", "images", "> suggested", "> config", "own class", "text score", "image score")
        lines = ["  ".join(f"{head:>11}" for head in heads)]
        for each in self.levels:
            shares = (f"{share:.0%}" for share in (each.over_suggested, each.over_config, each.own_class_best))
            cells = (each.level, each.images, *shares, f"{each.text_score:.3f}", f"{each.image_score:.3f}")
            lines.append("  ".join(f"{cell:>11}" for cell in cells))
        low, middle, high = np.quantile(self.real, [0.05, 0.5, 0.95])
        lines += [
            f"real images score {low:.3f} to {high:.3f} (5 to 95 %), {middle:.3f} in the middle",
            f"suggested: threshold = {self.suggested:.3f} ({REAL_QUANTILE:.0%} quantile of real images), "
            f"levels = {self.good_levels}",
            *(f"problem: {problem}" for problem in self.problems()),
        ]
        return lines if self.problems() else [*lines, "this model suits this data"]


def suitability(config: RunConfig, table: DataTable, store: Store, recipe: str) -> Suitability:
    """store: has images made with this config, of this recipe, of some sources, beside those of earlier probes.
    DataError without one that is scored, and where no real image can be decoded."""
    made = store.table.filter(pc.equal(store.table["recipe"], recipe)).to_pylist()
    rows = [row for row in made if row["status"] == "ok" and row["text_score"] is not None]
    if not rows:
        raise DataError(f"{store.name}: none of the probe's images is whole and scored; look at its reasons")
    real, own = _real_scores(config, table)
    return _judged(config, rows, real, own, _side(table, select_hard(config.hard, table)[:REAL]))


def _side(table: DataTable, rows: np.ndarray) -> int:
    return int(np.median([min(image.size) for _, image in _opened(table, rows)]))


def _opened(table: DataTable, rows: np.ndarray) -> Iterator[tuple[int, Image.Image]]:
    """Row and image of those that can be decoded; each of the others is logged. DataError where none can."""
    found = False
    for row in rows.tolist():
        try:
            image = open_image(table.source(row))
        except DataError as error:
            log.warning("passed over %s", error)
            continue
        found = True
        yield row, image
    if not found:
        raise DataError(
            f"none of {len(rows)} real images, such as {table.source(rows[0])}, can be decoded; repair them"
        )


def _real_scores(config: RunConfig, table: DataTable) -> tuple[np.ndarray, float]:
    """Text scores of training images, evenly chosen, and the share whose own class has the highest."""
    import torch

    from discl.engine.scorer import Scorer

    assert config.score is not None
    train = table.rows("train")
    wanted = train[np.linspace(0, len(train) - 1, min(REAL, len(train))).astype(int)]
    opened = dict(_opened(table, wanted))
    scorer = Scorer.from_pretrained(config.score.clip)
    texts = class_embeddings(scorer, config.score.prompt, table.class_names, "score.prompt")
    cosines = scorer.embed_pil(list(opened.values())) @ texts.T
    labels = torch.from_numpy(table.labels[list(opened)])
    best = (cosines.argmax(1) == labels).float().mean().item() if len(texts) > 1 else math.nan
    return cosines.gather(1, labels[:, None])[:, 0].numpy(), best


def _judged(config: RunConfig, rows: list[dict[str, Any]], real: np.ndarray, own: float, side: int) -> Suitability:
    assert config.score is not None
    suggested = float(np.quantile(real, REAL_QUANTILE))
    levels = []
    for level in config.spectrum.levels:
        of = [row for row in rows if row["level"] == level]
        if not of:
            continue
        scores = np.array([row["text_score"] for row in of])
        limits = np.array([config.score.threshold.of(row["class_name"], level) for row in of])
        levels.append(
            LevelFacts(
                level, len(of), _share(scores >= suggested), _share(scores >= limits),
                _share(np.array([row["margin"] > 0 for row in of])), float(np.median(scores)),
                float(np.nanmedian([np.nan if row["image_score"] is None else row["image_score"] for row in of])),
            )
        )  # fmt: skip
    return Suitability(levels, real, own, suggested, side)


def _share(mask: np.ndarray) -> float:
    return float(mask.mean())
