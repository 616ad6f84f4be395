"""Traces in, a rule out: where to look, what to predict from it, and how low the bound must lie.

Two disjoint sets of traces: `fit` chooses the checks and fits the predictors, `held` alone sets the bound, so that the
bound is honest however well or badly the predictors were fitted. Everything is a function of the traces.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from discl.engine.rejection.bound import CONFIDENCE, bound_rank, needed
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
    confidence: float = CONFIDENCE,
    calibration_keys: Sequence[str] = (),
) -> Rule:
    """A rule from two disjoint sets of traces; a level without enough of them is in it, but never rejected.

    made_for: `Engine.signature`. threshold, calibration_keys: as for `Rule`.
    """
    priors, prior = text_priors(fit)
    rows = 2.0 if made_for["text_guidance"] > 1 else 1.0
    empty = Rule(made_for, limit, confidence, threshold, tuple(texts), priors, prior, decoder, {})
    halves = {each.level: each for each in held}
    levels = {
        each.level: calibrate_level(empty, each, halves[each.level], rows) for each in fit if each.level in halves
    }
    return replace(empty, levels=levels, calibration_keys=tuple(calibration_keys))


def text_priors(fit: Sequence[Traces]) -> tuple[dict[str, float], float]:
    """Log-odds of acceptance by text over all levels, drawn towards that of all samples; and the latter."""
    texts = np.concatenate([each.text for each in fit])
    accepted = np.concatenate([each.accepted for each in fit])
    share = (accepted.sum() + 1) / (len(accepted) + 2)
    names, codes = np.unique(texts, return_inverse=True)
    rates = (np.bincount(codes, accepted) + PRIOR_WEIGHT * share) / (np.bincount(codes) + PRIOR_WEIGHT)
    odds = np.log(rates / (1 - rates))
    return dict(zip(names.tolist(), odds.tolist(), strict=True)), float(np.log(share / (1 - share)))


def calibrate_level(rule: Rule, fit: Traces, held: Traces, rows_per_step: float) -> LevelRule:
    """The rule of one level, for a rule that has everything else; its bound is None where there are too few samples."""
    counts = {
        "fit": len(fit),
        "fit_accepted": int(fit.accepted.sum()),
        "held": len(held),
        "held_accepted": int(held.accepted.sum()),
    }
    problem = _too_few(fit, counts["held_accepted"], rule)
    if problem:
        log.warning("level %d is not rejected early, its bound cannot be calibrated: %s", fit.level, problem)
        return LevelRule(fit.level, fit.steps, None, (), None, counts | {"problem": problem})
    prior = np.array([rule.prior_of(text) for text in fit.text.tolist()])
    level = Search(fit, prior, rule.limit, rows_per_step, LOOK_COST).best()
    return with_bound(replace(rule, levels={fit.level: level}), held, counts)


def with_bound(rule: Rule, held: Traces, counts: dict[str, Any]) -> LevelRule:
    """The level's rule with the bound that traces of none of its predictors' samples allow."""
    values = rule.decide(held).value.min(1)
    rank = bound_rank(int(held.accepted.sum()), rule.limit, rule.confidence)
    bound = min(float(np.sort(values[held.accepted])[rank - 1]), ABOVE_ALL) if rank else -math.inf
    rejected = values < bound
    seen = {"rank": rank, "rejected": int(rejected.sum()), "false_rejects": int((rejected & held.accepted).sum())}
    level = rule.levels[held.level]
    return replace(level, bound=bound if rank else None, calibration=counts | seen)


def _too_few(fit: Traces, held_accepted: int, rule: Rule) -> str:
    if not bound_rank(held_accepted, rule.limit, rule.confidence):
        least = needed(rule.limit, rule.confidence)
        return f"{held_accepted} accepted samples, a false-reject limit of {rule.limit:g} needs {least:g}"
    rarer = min(fit.accepted.sum(), (~fit.accepted).sum())
    return f"{rarer} samples of the rarer outcome, {FEWEST} are needed" if rarer < FEWEST else ""
