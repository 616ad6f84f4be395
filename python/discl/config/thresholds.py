"""The key threshold of a config: one number, a flat table, or three tables in, `Thresholds` out."""

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from discl.config.section import Section
from discl.config.values import Level

Score = Annotated[float, Field(ge=-1.0, le=1.0)]


def _number(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdigit() else key


class Thresholds(Section):
    """Lowest accepted text score: the class's own, else the level's own, else `default`.

    Written as one number, as a flat table whose keys are levels (whole numbers) and class names, or as the three
    tables themselves, which also take a class that is called "30" or "default".
    """

    default: Score = 0.30
    classes: dict[str, Score] = Field(default_factory=dict)
    levels: dict[Annotated[Level, BeforeValidator(_number)], Score] = Field(default_factory=dict)

    def of(self, class_name: str, level: int) -> float:
        return self.classes.get(class_name, self.levels.get(level, self.default))


def as_tables(value: Any) -> Any:
    """What Thresholds takes, from any of the three forms."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"default": value}
    if isinstance(value, dict):
        return _nested(value)
    if isinstance(value, Thresholds):
        return value
    raise ValueError("should be a number or a table")


def _nested(table: dict[Any, Any]) -> dict[Any, Any]:
    """The flat form as the three tables. A misspelt name of these stays where it is, to be complained about."""
    names = list(Thresholds.model_fields)
    own = {key for key in table if difflib.get_close_matches(str(key), names, n=1, cutoff=0.8)}
    if own - {"default"}:
        return table
    flat = {key: value for key, value in table.items() if key not in own}
    levels = {key: value for key, value in flat.items() if isinstance(_number(key), int)}
    classes = {key: value for key, value in flat.items() if key not in levels}
    return {**{key: table[key] for key in own}, "classes": classes, "levels": levels}
