"""Early rejection in a run: who calibrates it, who is a control, and where its rule lies.

A run with `[engine] early_rejection = true` first makes a few samples of every level to their end while they are looked
at (the calibration), writes STORE/rejection/<recipe>.json, and judges the rest by it. Who calibrates and who is a
control follows from the keys alone. A run that is stopped before the rule is written traces the same samples again and
finds the same rule; afterwards the file decides.
"""

import heapq
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from discl.atomic import write_atomic
from discl.config import RunConfig, ScoreConfig
from discl.config.thresholds import Thresholds
from discl.errors import ConfigError, StoreError
from discl.prompts import fill

if TYPE_CHECKING:
    from discl.engine import Engine, Sample
    from discl.engine.rejection import Rule
    from discl.plan import Plan
    from discl.store import Store

log = logging.getLogger(__name__)

LEAST = 1000  # samples of a level that calibrate it, if it has enough
PER_LIMIT = 80  # and at least this many over the limit: 4,000 at 2 percent
MOST = 4  # but never more than one of so many
DISTILLED = 64  # samples of a level that teach the small decoder, and at most one of so many of the calibration:
DISTILLED_SHARE = 8


def draw(key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on key and purpose alone."""
    return int.from_bytes(blake2b(f"{purpose} {key}".encode(), digest_size=8).digest(), "big") / 2**64


def is_control(key: str, share: float) -> bool:
    """Whether a sample is never given up, so that what rejection costs can be measured."""
    return draw(key, "control") < share


def check_config(config: RunConfig) -> None:
    if config.engine.early_rejection and config.score is None:
        raise ConfigError(
            "[engine] early_rejection predicts CLIP scores, and there is no [score]: add one, or set false"
        )


@dataclass(frozen=True)
class Subset:
    """The keys that calibrate: they teach the decoder, fit the predictors (a third), or set the bounds. Disjoint."""

    distil: frozenset[str]
    fit: frozenset[str]
    held: frozenset[str]

    @property
    def traced(self) -> frozenset[str]:
        return self.fit | self.held


def calibration_subset(plan: "Plan", limit: float) -> Subset:
    """Of every level the first attempts that come first in the order of `draw`; controls are left out.

    Empty, with a message, where the plan is too small: a level gives at most one in `MOST` of its samples.
    """
    from discl.engine.rejection.bound import needed

    per_level = len(plan) // len(plan.spectrum.levels)
    count = min(max(LEAST, math.ceil(PER_LIMIT / max(limit, 1e-6))), per_level // MOST)
    if 2 * count // 3 < needed(limit):
        log.warning(
            "nothing is rejected early: the plan has %d samples a level, at most 1 in %d calibrates, and a "
            "false-reject limit of %g needs %g accepted ones to be held back",
            per_level, MOST, limit, needed(limit),
        )  # fmt: skip
        return Subset(frozenset(), frozenset(), frozenset())
    parts: tuple[set[str], set[str], set[str]] = set(), set(), set()
    for level in plan.spectrum.levels:
        keys = (each.key for each in plan if each.level == level and not each.control)
        ordered = heapq.nsmallest(count, keys, key=lambda key: draw(key, "calibration"))
        first = min(DISTILLED, len(ordered) // DISTILLED_SHARE)
        parts[0].update(ordered[:first])
        fit = ordered[first::3]
        parts[1].update(fit)
        parts[2].update(set(ordered[first:]).difference(fit))
    return Subset(*map(frozenset, parts))


def rule_file(store: str | Path, recipe: str) -> Path:
    return Path(store) / "rejection" / f"{recipe}.json"


def find_rule(
    config: RunConfig, plan: "Plan", engine: "Engine", run: Callable[[frozenset[str]], list["Sample"]]
) -> "Rule | None":
    """The recipe's rule: read, or calibrated by `run`, which makes the samples of these keys and returns them.

    None, with a message, for a plan that is too small to calibrate one.
    """
    from discl.engine.rejection import Rule

    file = rule_file(config.store.path, plan.recipe_digest)
    if not file.is_file():
        subset = calibration_subset(plan, config.engine.false_reject_limit)
        if not subset.distil:
            return None
        rule = _calibrated(config, plan, subset, engine, run)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, rule.encoded())
    return Rule.load(file)


def _calibrated(config: RunConfig, plan: "Plan", subset: Subset, engine: "Engine", run) -> "Rule":
    from discl.engine.rejection import LatentTracer, Tracer
    from discl.engine.rejection.calibration import calibrate
    from discl.engine.rejection.recording import distil, gather

    score, limit = config.score, config.engine.false_reject_limit
    assert score is not None, "check_config"
    texts = tuple(fill(score.prompt, name, "score.prompt") for name in plan.table.class_names)
    engine.reject_by(LatentTracer())
    decoder = distil(engine, run(subset.distil))
    engine.reject_by(Tracer(decoder, texts))
    samples = run(subset.traced)
    threshold = lambda sample: score.threshold.of(sample.request.class_name, sample.request.level)  # noqa: E731
    fit, held = (
        gather(engine, [sample for sample in samples if sample.request.key in part], threshold)
        for part in (subset.fit, subset.held)
    )
    rule = calibrate(
        engine.signature, decoder, texts, list(fit.values()), list(held.values()),
        score.threshold.model_dump(mode="json"), limit, engine.guided,
        calibration_keys=sorted(subset.distil | subset.traced),
    )  # fmt: skip
    for level in rule.levels.values():
        log.info("level %d: %s", level.level, _summary(level))
    return rule


def _summary(level) -> str:
    if level.bound is None:
        return "not rejected early"
    seen = level.calibration
    return (
        f"checks after {', '.join(str(check.step) for check in level.checks)} of {level.steps} steps, "
        f"{seen['rejected']} of {seen['held']} held-back samples given up, {seen['false_rejects']} of them accepted"
    )


def refuse_to_calibrate(config: RunConfig, plan: "Plan") -> None:
    """ConfigError where a part of a plan would calibrate a rule: every part would have another."""
    file = rule_file(config.store.path, plan.recipe_digest)
    if config.engine.early_rejection and not file.is_file():
        raise ConfigError(
            "[engine] early_rejection: a part cannot calibrate the rule, which is a matter of the whole plan. Run "
            f"`discl generate` on one machine until it has written {file.name}, and put that file at {file}; or set "
            "early_rejection = false"
        )


def refuse_below_rule(store: "Store", score: ScoreConfig | None, recipe: str) -> None:
    """StoreError where [score] has thresholds below those of the recipe's rule: what was given up for these is gone."""
    if score is not None:
        refuse_below(store, recipe, score.threshold.of)


def refuse_below(store: "Store", recipe: str, cut: Callable[[str, int], float]) -> None:
    """The same for any rule: cut(class, level) is the lowest text score that it can accept."""
    file = rule_file(store.path, recipe)
    if not file.is_file():
        return
    judged = Thresholds.model_validate(json.loads(file.read_text(encoding="utf-8"))["threshold"])
    for name, level in sorted(_given_up(store, recipe)):
        asked, before = cut(name, level), judged.of(name, level)
        if np.float32(asked) < np.float32(before):
            raise StoreError(
                f"threshold {asked:g} for class {name!r} at level {level} is below {before:g}, by which early "
                "rejection gave samples up in this store: raise it, set [engine] early_rejection = false to make "
                "them all, or allow `discl filter` to choose among the others with --below-rule"
            )


def _given_up(store: "Store", recipe: str) -> set[tuple[str, int]]:
    """Class and level of every sample of the recipe that was rejected early."""
    rejected = [("status", "=", "rejected-early"), ("recipe", "=", recipe)]
    return {
        (row["class_name"], row["level"])
        for batch in store.scan(["class_name", "level"], rejected)
        for row in batch.to_pylist()
    }
