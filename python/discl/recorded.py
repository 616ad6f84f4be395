"""A store's rows in, what they mean for the plan's attempts out: which are made, and which of those end their wish."""

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from discl.config import ScoreConfig
from discl.plan import PlannedSample
from discl.selection import accepts
from discl.store import Store
from discl.store.keys import Keys

COLUMNS = ["key", "status", "text_score"]
HOPELESS = "error"  # the source could not be used: another attempt would fail as well


def is_accepted(
    score: ScoreConfig | None, planned: PlannedSample, status: str | None, text_score: float | None
) -> bool:
    return status == "ok" and accepts(score, text_score, planned.class_name, planned.level)


class Recorded:
    """What a store has of a planned sample: about 30 bytes per row. unsealed: rows beside the sealed ones."""

    def __init__(self, score: ScoreConfig | None, store: Store, unsealed: Iterable[Mapping[str, Any]] = ()):
        self._score, self._keys = score, Keys()
        self._names: dict[str | None, int] = {}
        self._codes, self._scores = array("b"), array("f")
        for batch in store.scan(COLUMNS):
            self.add(batch)
        for row in unsealed:
            self._keys.add(row["key"])
            self._codes.append(self._code(row["status"]))
            self._scores.append(_number(row["text_score"]))

    def add(self, batch: pa.RecordBatch) -> None:
        """Further rows of an index, with COLUMNS; those that are here already count once."""
        batch = batch.filter(pa.array(self._keys.numbers(batch["key"]) < 0))
        self._keys.add_column(batch["key"])
        self._codes.extend(map(self._code, batch["status"].to_pylist()))
        self._scores.extend(map(_number, batch["text_score"].to_pylist()))

    def _code(self, status: str | None) -> int:
        return self._names.setdefault(status, len(self._names))

    def __call__(self, planned: PlannedSample) -> bool | None:
        """Whether the sample ends its wish: it is accepted, or no other attempt could be better. None: not made."""
        found = self._result(planned)
        return None if found is None else ends(self._score, planned, *found)

    def accepted(self, planned: PlannedSample) -> bool:
        found = self._result(planned)
        return found is not None and is_accepted(self._score, planned, *found)

    def hopeless(self, planned: PlannedSample) -> bool:
        """Whether it failed in a way in which its source always will."""
        found = self._result(planned)
        return found is not None and found[0] == HOPELESS

    def _result(self, planned: PlannedSample) -> tuple[str | None, float | None] | None:
        """Status and text score; None for what is not made."""
        row = int(self._keys.numbers([planned.key])[0])
        if row < 0:
            return None
        score = self._scores[row]
        return list(self._names)[self._codes[row]], None if math.isnan(score) else score


def _number(score: float | None) -> float:
    return math.nan if score is None else score


def ends(score: ScoreConfig | None, planned: PlannedSample, status: str | None, text_score: float | None) -> bool:
    return status == HOPELESS or is_accepted(score, planned, status, text_score)
