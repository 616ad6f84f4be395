"""When to give a request up: the calibrated rule, its verdicts, and the JSON file that it lives in.

At each check of a level the chance that the image will be accepted is predicted. A request is given up when that
chance, divided by the share of the steps that giving it up would save, is below the level's bound: a small chance
suffices early, when much can be saved. Who is likely enough to be accepted is not looked at, since looking costs.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.evidence import evidence, expectation
from discl.engine.rejection.logistic import Logistic
from discl.engine.rejection.traces import Traces
from discl.errors import DisclError

FORMAT = "discl early rejection 1"


@dataclass(frozen=True, eq=False)
class Check:
    """A look after `step` executed steps, at requests whose expected log-odds are at most `gate` (see LevelRule)."""

    step: int
    gate: float
    chance: Logistic


class Decisions(NamedTuple):
    """What becomes of n samples. looked bool [n, checks]: who would be looked at if nobody was given up. value float
    [n, checks]: what is compared with the bound, inf where nobody looks."""

    looked: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class LevelRule:
    """The rule of one level, whose requests execute `steps` steps.

    expected: log-odds before any preview, from `expectation`; the first gate holds for them, a later one for the
    check's before it. bound: None where too few samples were there to calibrate. calibration: counts and rates, for
    the reader.
    """

    level: int
    steps: int
    expected: Logistic | None
    checks: tuple[Check, ...]
    bound: float | None
    calibration: dict[str, Any]

    def decide(self, looks: np.ndarray, source: np.ndarray, prior: np.ndarray, threshold: np.ndarray) -> Decisions:
        """looks [n, checks of this rule, LOOK]; the rest as for `evidence`."""
        given = source, prior, threshold
        odds = self.expected(expectation(*given)[0]) if self.expected else np.zeros(len(source))
        looking = np.ones(len(source), bool)
        looked, values = [], []
        for number, check in enumerate(self.checks):
            looking = looking & (odds <= check.gate)
            odds = check.chance(evidence(looks[:, : number + 1], *given)[0])
            looked.append(looking)
            values.append(np.where(looking, self.value(number, odds), np.inf))
        return Decisions(np.stack(looked, 1), np.stack(values, 1))

    def value(self, number: int, odds: np.ndarray) -> np.ndarray:
        """log(chance / share of the steps still to go) of log-odds [n] at a check."""
        return -np.logaddexp(0.0, -odds) - math.log(self.remaining(number))

    def remaining(self, number: int) -> float:
        return 1 - self.checks[number].step / self.steps

    def chance_at_bound(self, number: int) -> float:
        """The predicted chance of acceptance below which a check gives a request up."""
        return 0.0 if self.bound is None else min(1.0, math.exp(self.bound) * self.remaining(number))


@dataclass(frozen=True, eq=False)
class Rule:
    """A calibrated rule.

    made_for: what it was calibrated with (model, scorer, solver, steps, ...); it holds for nothing else. texts: every
    scored text, for margins. priors: log-odds of acceptance by text, `prior` for others. threshold: {"default",
    "classes", "levels"} of accepted text scores. limit: the false-reject rate of all levels together, kept with
    `confidence`; see `calibration` for one level's.
    calibration_keys: the samples it was calibrated on, which were never given up.
    """

    made_for: dict[str, Any]
    limit: float
    confidence: float
    threshold: dict[str, Any]
    texts: tuple[str, ...]
    priors: Mapping[str, float]
    prior: float
    decoder: SmallDecoder
    levels: Mapping[int, LevelRule]
    calibration_keys: tuple[str, ...] = ()

    def threshold_of(self, class_name: str | None, level: int) -> float:
        """The lowest accepted text score: the class's own, else the level's own, else the default."""
        levels = {int(key): value for key, value in self.threshold["levels"].items()}
        return self.threshold["classes"].get(class_name, levels.get(level, self.threshold["default"]))

    def prior_of(self, text: str) -> float:
        return self.priors.get(text, self.prior)

    def decide(self, traces: Traces) -> Decisions:
        """The decisions on recorded samples of one level of this rule."""
        rule = self.levels[traces.level]
        prior = np.array([self.prior_of(text) for text in traces.text.tolist()])
        looks = traces.at([check.step for check in rule.checks])
        return rule.decide(looks, traces.source, prior, traces.threshold)

    def encoded(self) -> bytes:
        """The file's content, for `load`."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False).encode()

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "made_for": self.made_for,
            "limit": self.limit,
            "confidence": self.confidence,
            "threshold": self.threshold,
            "texts": list(self.texts),
            "priors": dict(self.priors),
            "prior": self.prior,
            "levels": [_level_json(rule) for rule in self.levels.values()],
            "decoder": self.decoder.to_json(),
            "calibration_keys": list(self.calibration_keys),
        }

    @classmethod
    def load(cls, file: str | Path) -> "Rule":
        """Raises DisclError for a file that is not a rule."""
        try:
            value = json.loads(Path(file).read_text(encoding="utf-8"))
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']!r} instead of {FORMAT!r}")
            return cls(
                levels={each["level"]: _level_rule(each) for each in value["levels"]},
                decoder=SmallDecoder.from_json(value["decoder"]),
                texts=tuple(value["texts"]),
                calibration_keys=tuple(value["calibration_keys"]),
                **{name: value[name] for name in ("made_for", "limit", "confidence", "threshold", "priors", "prior")},
            )
        except OSError as error:
            raise DisclError(f"the rule for early rejection cannot be read: {error}; check its path") from error
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DisclError(
                f"{file}: no rule for early rejection ({type(error).__name__}: {error}); "
                "remove it, and it is calibrated again"
            ) from error


def _level_json(rule: LevelRule) -> dict[str, Any]:
    return {
        "level": rule.level,
        "steps": rule.steps,
        "bound": rule.bound,
        "calibration": rule.calibration,
        "expected": rule.expected.to_json() if rule.expected else None,
        "checks": [
            {
                "step": check.step,
                "gate": None if math.isinf(check.gate) else check.gate,
                "chance": check.chance.to_json(),
            }
            for check in rule.checks
        ],
    }


def _level_rule(value: dict[str, Any]) -> LevelRule:
    checks = tuple(
        Check(each["step"], math.inf if each["gate"] is None else each["gate"], Logistic.from_json(each["chance"]))
        for each in value["checks"]
    )
    expected = Logistic.from_json(value["expected"]) if value["expected"] else None
    return LevelRule(value["level"], value["steps"], expected, checks, value["bound"], value["calibration"])
