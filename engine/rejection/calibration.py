"""Traces in, a rule out: where to look, what to predict from it, and how low the bound must lie.

Two disjoint sets of traces: `fit` chooses the checks and fits the predictors, `held` alone sets the bounds, so that
they are honest however well or badly the predictors were fitted. Everything is a function of the traces.

The limit holds for all levels together, and the levels share one bound: on the chance of acceptance per step that is
saved. So a false reject buys as many steps at every level, and the limit is spent where it saves most. No level's own
rate may exceed `level_limit`.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from discl.engine.rejection.bound import CONFIDENCE, bound_rank, level_limit, needed
from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.rule import LevelRule, Rule
from discl.engine.rejection.search import Search
from discl.engine.rejection.traces import Traces

log = logging.getLogger(__name__)

FEWEST = 30  # accepted, and other, samples of a level that a predictor is fitted to
PRIOR_WEIGHT = 20  # samples that a text's own acceptance must outweigh
ABOVE_ALL = 10.0  # a bound that everyone who is looked at is below
LOOK_COST = 1.0  # of one preview with its score, in network rows


def calibrate(
    made_for: dict[str, Any],
    decoder: SmallDecoder,
    texts: Sequence[str],
    fit: Sequence[Traces],
    held: Sequence[Traces],
    threshold: dict[str, Any],
    limit: float,
    guided: bool,
    confidence: float = CONFIDENCE,
    calibration_keys: Sequence[str] = (),
) -> Rule:
    """A rule from two disjoint sets of traces; a level without enough of them is in it, but never rejected.

    made_for, guided: of the engine, `Engine.signature` and `Engine.guided`. threshold, calibration_keys: as for `Rule`.
    """
    priors, prior = text_priors(fit)
    rows = 2.0 if guided else 1.0
    empty = Rule(made_for, limit, confidence, threshold, tuple(texts), priors, prior, decoder, {})
    halves = {each.level: each for each in held}
    pairs = [(each, halves[each.level]) for each in fit if each.level in halves]
    rule = replace(empty, levels={fit.level: fitted_level(empty, fit, held, rows) for fit, held in pairs})
    return replace(with_bounds(rule, [held for _, held in pairs]), calibration_keys=tuple(calibration_keys))


def text_priors(fit: Sequence[Traces]) -> tuple[dict[str, float], float]:
    """Log-odds of acceptance by text over all levels, drawn towards that of all samples; and the latter."""
    texts = np.concatenate([each.text for each in fit])
    accepted = np.concatenate([each.accepted for each in fit])
    share = (accepted.sum() + 1) / (len(accepted) + 2)
    names, codes = np.unique(texts, return_inverse=True)
    rates = (np.bincount(codes, accepted) + PRIOR_WEIGHT * share) / (np.bincount(codes) + PRIOR_WEIGHT)
    odds = np.log(rates / (1 - rates))
    return dict(zip(names.tolist(), odds.tolist(), strict=True)), float(np.log(share / (1 - share)))


def fitted_level(rule: Rule, fit: Traces, held: Traces, rows_per_step: float) -> LevelRule:
    """The rule of one level but for its bound; without checks where there are too few samples."""
    counts = {
        "fit": len(fit),
        "fit_accepted": int(fit.accepted.sum()),
        "held": len(held),
        "held_accepted": int(held.accepted.sum()),
    }
    problem = _too_few(fit, counts["held_accepted"], rule)
    if problem:
        return _unbounded(LevelRule(fit.level, fit.steps, None, (), None, counts), problem)
    prior = np.array([rule.prior_of(text) for text in fit.text.tolist()])
    level = Search(fit, prior, rule.limit, rows_per_step, LOOK_COST).best()
    return replace(level, calibration=counts)


def with_bounds(rule: Rule, held: Sequence[Traces]) -> Rule:
    """The rule with the bounds that traces allow which fitted none of its predictors; one a level that has checks."""
    held = [each for each in held if rule.levels[each.level].checks]
    values = {each.level: rule.decide(each).value.min(1) for each in held}
    accepted = {each.level: np.sort(values[each.level][each.accepted]) for each in held}
    # A level's values count from the share of its own steps that is saved; together, from steps.
    pooled = np.sort(np.concatenate([[], *(accepted[n] - math.log(rule.levels[n].steps) for n in accepted)]))
    common = _bound(pooled, rule.limit, rule)
    levels = dict(rule.levels)
    for each in held:
        level = levels[each.level]
        if common == -math.inf:
            levels[each.level] = _unbounded(level, _few_accepted(len(pooled), rule.limit, rule))
            continue
        own = _bound(accepted[each.level], level_limit(rule.limit), rule)
        bound = min(common + math.log(level.steps), own, ABOVE_ALL)
        rejected = values[each.level] < bound
        seen = {"rejected": int(rejected.sum()), "false_rejects": int((rejected & each.accepted).sum())}
        levels[each.level] = replace(level, bound=bound, calibration=level.calibration | seen)
    return replace(rule, levels=levels)


def _unbounded(level: LevelRule, problem: str) -> LevelRule:
    log.warning("level %d is not rejected early, its bound cannot be calibrated: %s", level.level, problem)
    return replace(level, bound=None, calibration=level.calibration | {"problem": problem})


def _bound(values: np.ndarray, limit: float, rule: Rule) -> float:
    """Below which few enough of the sorted values lie; minus infinity where they are too few to tell."""
    rank = bound_rank(len(values), limit, rule.confidence)
    return float(values[rank - 1]) if rank else -math.inf


def _too_few(fit: Traces, held_accepted: int, rule: Rule) -> str:
    if not bound_rank(held_accepted, level_limit(rule.limit), rule.confidence):
        return _few_accepted(held_accepted, level_limit(rule.limit), rule)
    rarer = min(fit.accepted.sum(), (~fit.accepted).sum())
    return f"{rarer} samples of the rarer outcome, {FEWEST} are needed" if rarer < FEWEST else ""


def _few_accepted(count: int, limit: float, rule: Rule) -> str:
    least = needed(limit, rule.confidence)
    return f"{count} accepted samples, a false-reject rate of at most {limit:g} needs {least:g}"
