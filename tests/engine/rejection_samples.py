"""Traces of an invented process: a quality decides the score, and previews show it, the later the better."""

import numpy as np

from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.rule import Rule
from discl.engine.rejection.search import candidate_checks
from discl.engine.rejection.traces import Traces

STEPS, THRESHOLD = 20, 0.3
THRESHOLDS = {"default": THRESHOLD, "classes": {}, "levels": {}}
MADE_FOR = {"text_guidance": 7.5}


def invented(count: int, rng: np.random.Generator, level: int = 0, informative: float = 1.0) -> Traces:
    """informative 0: previews are noise."""
    checks = candidate_checks(STEPS)
    quality, text = rng.normal(size=count), rng.integers(0, 5, count)
    score = THRESHOLD + 0.02 + 0.05 * quality + 0.02 * (text - 2)
    noise = rng.normal(size=(count, len(checks))) * 0.1 * (1 - np.array(checks) / STEPS)
    shown = informative * (score[:, None] - THRESHOLD) + THRESHOLD + noise
    others = rng.normal(size=(count, len(checks), 2))
    looks = np.concatenate([np.stack([shown, shown - 0.2 + 0.02 * others[..., 0]], -1), others], -1)
    return Traces(
        level,
        STEPS,
        checks,
        key=np.array([f"{row:032x}" for row in range(count)]),
        group=np.array([f"{row // 3}" for row in range(count)]),
        text=np.array([f"a {number}" for number in text]),
        looks=looks.astype(np.float32),
        source=rng.normal(size=(count, 2)).astype(np.float32),
        score=score.astype(np.float32),
        threshold=np.full(count, THRESHOLD, np.float32),
    )


def empty_rule(limit: float, **fields) -> Rule:
    return Rule(MADE_FOR, limit, 0.9, THRESHOLDS, ("a 0", "a 1"), {}, 0.0, SmallDecoder(4, 2), {}, **fields)


def rejected(rule: Rule, traces: Traces) -> np.ndarray:
    """bool [n]: who is given up at any check."""
    level = rule.levels[traces.level]
    if level.bound is None:
        return np.zeros(len(traces), bool)
    return (rule.decide(traces).value < level.bound).any(1)
