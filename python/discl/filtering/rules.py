"""What `discl filter` is asked for in, checked values out."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from discl.config.thresholds import Thresholds
from discl.errors import ConfigError

By = Literal["all", "class", "level", "class-level"]
Balance = Literal["full", "sqrt", "capped"]


@dataclass(frozen=True)
class Rules:
    """What an image must pass, in the order in which the rules are applied. None: not asked.

    Quality: thresholds    text score >= the class's own, else the level's own, else `threshold`, in float32
             quantile      text score >= this quantile (linear, as numpy's) of its group: all, class, level, class-level
             margin, rank  own-class cosine over the best other class; place among all classes, 1 the best
             duplicates    of one source's images with a cosine above it, the `duplicate_cap` best stay
    Numbers: best          the best k of every (source, level)
             quota         the best n of every class
             balance       a quota by class that brings real + synthetic to a target: `full` the largest class's real
                           count R, `sqrt` sqrt(own real count * R), `capped` R but at most `balance_cap`
             minimum       of every (source, level): what the numbers left out is taken back for holes, of that level,
                           else of the next higher ones, else of the next lower ones. Quality is never given up for it.
    """

    threshold: float | None = None
    class_thresholds: dict[str, float] = field(default_factory=dict)
    level_thresholds: dict[int, float] = field(default_factory=dict)
    quantile: float | None = None
    by: By = "all"
    margin: float | None = None
    rank: int | None = None
    duplicates: float | None = None
    duplicate_cap: int = 1
    best: int | None = None
    quota: int | None = None
    balance: Balance | None = None
    balance_cap: int | None = None
    minimum: int | None = None

    def __post_init__(self) -> None:
        cosines = {"threshold": self.threshold, "duplicates": self.duplicates}
        cosines |= {f"threshold of {name}": value for name, value in self.class_thresholds.items()}
        cosines |= {f"threshold of level {level}": value for level, value in self.level_thresholds.items()}
        for name, value in cosines.items():
            _check(name, value, "a cosine, a number from -1 to 1", _within(value, 1))
        _check("margin", self.margin, "a number from -2 to 2", _within(self.margin, 2))
        inside = self.quantile is None or 0 <= self.quantile <= 1
        _check("quantile", self.quantile, "a share from 0 to 1", inside)
        for name in ("rank", "duplicate_cap", "best", "quota", "balance_cap", "minimum"):
            count = getattr(self, name)
            _check(name, count, "a whole number of 1 or more", count is None or count >= 1)
        if self.quota is not None and self.balance is not None:
            raise ConfigError("quota and balance both say how many of a class are kept; give one of them")
        if (self.balance == "capped") != (self.balance_cap is not None):
            raise ConfigError("balance = capped needs balance_cap (images per class), and nothing else takes it")

    @property
    def thresholds(self) -> Thresholds | None:
        """None where no threshold is asked; a level or class without one then has the lowest there is."""
        if self.threshold is None and not self.class_thresholds and not self.level_thresholds:
            return None
        default = -1.0 if self.threshold is None else self.threshold
        return Thresholds(default=default, classes=self.class_thresholds, levels=self.level_thresholds)

    @property
    def scored(self) -> bool:
        """Whether an image without a text score fails."""
        return any(each is not None for each in (self.thresholds, self.quantile, self.best, self.quota, self.balance))

    def to_json(self) -> dict[str, Any]:
        """What was asked, as it stands beside the selection."""
        asked = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name not in ("threshold", "class_thresholds", "level_thresholds") and value != each.default:
                asked[each.name] = value
        thresholds = self.thresholds
        return asked | ({"threshold": thresholds.model_dump(mode="json")} if thresholds else {})


def _within(value: float | None, most: float) -> bool:
    return value is None or (math.isfinite(value) and abs(value) <= most)


def _check(name: str, given: Any, wanted: str, good: bool) -> None:
    if not good:
        raise ConfigError(f"{name} = {given} is not {wanted}")
