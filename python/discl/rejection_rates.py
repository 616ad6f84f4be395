"""A store's rows in, what early rejection did and what it cost out: share given up, false-reject rate; by level."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from discl.config.thresholds import Thresholds
from discl.rejection import rule_file

if TYPE_CHECKING:
    from discl.store import Store

COLUMNS = ["key", "recipe", "status", "class_name", "level", "text_score", "control", "rejected_at"]

COUNTS = ("judged", "rejected", "control", "accepted", "false", "calibration", "steps_saved")


@dataclass
class Rates:
    """Of one level; level None: of all together, `steps` being their mean.

    judged: samples that could be given up, of which `rejected` were. Of the `control` samples, which could not,
    `accepted` have a high enough score, of which `false` would have been given up. calibration: samples that the rule
    was calibrated on. steps: of a whole trajectory; steps_saved: of all that were given up. limit: of the false-reject
    rate of all levels together; problem: why the level is not rejected early.
    """

    level: int | None
    limit: float
    problem: str = ""
    judged: int = 0
    rejected: int = 0
    control: int = 0
    accepted: int = 0
    false: int = 0
    calibration: int = 0
    steps: float = 0
    steps_saved: int = 0

    @property
    def share(self) -> float | None:
        return self.rejected / self.judged if self.judged else None

    @property
    def saved(self) -> float | None:
        """Share of the judged samples' steps that was not executed."""
        return self.steps_saved / (self.judged * self.steps) if self.judged else None

    @property
    def false_reject_rate(self) -> float | None:
        """Estimated on the controls."""
        return self.false / self.accepted if self.accepted else None

    @property
    def interval(self) -> tuple[float, float]:
        """Of the false-reject rate, 95 percent, exact."""
        from discl.engine.rejection.bound import interval

        return interval(self.false, self.accepted) if self.accepted else (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {
            "share": self.share,
            "saved": self.saved,
            "false_reject_rate": self.false_reject_rate,
            "interval": list(self.interval),
        }


def rejection_rates(store: "Store", recipe: str) -> list[Rates]:
    """By level; empty where the recipe has no rule in this store."""
    file = rule_file(store.path, recipe)
    if not file.is_file():
        return []
    rule = json.loads(file.read_text(encoding="utf-8"))
    thresholds = Thresholds.model_validate(rule["threshold"])
    calibrated = set(rule["calibration_keys"])
    rates = {
        each["level"]: Rates(each["level"], rule["limit"], each["calibration"].get("problem", ""), steps=each["steps"])
        for each in rule["levels"]
    }
    for row in store.table.select(COLUMNS).to_pylist():
        if row["recipe"] == recipe and row["level"] in rates:
            _count(rates[row["level"]], row, row["key"] in calibrated, thresholds)
    return list(rates.values())


def pooled(rates: Sequence[Rates]) -> Rates:
    """Of all levels together, which is what the limit is for."""
    sums = {name: sum(getattr(each, name) for each in rates) for name in COUNTS}
    steps = sum(each.judged * each.steps for each in rates) / max(sums["judged"], 1)
    return Rates(None, rates[0].limit, steps=steps, **sums)


def _count(rates: Rates, row: dict[str, Any], calibrated: bool, thresholds: Thresholds) -> None:
    if calibrated:
        rates.calibration += 1
    elif row["control"]:
        rates.control += 1
        good = row["status"] == "ok" and row["text_score"] >= thresholds.of(row["class_name"], row["level"])
        rates.accepted += good
        rates.false += good and row["rejected_at"] is not None
    else:
        rates.judged += 1
        if row["status"] == "rejected-early":
            rates.rejected += 1
            rates.steps_saved += rates.steps - row["rejected_at"]
