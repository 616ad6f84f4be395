"""A store's rows in, what they mean for the plan's attempts out: which are made, and which of those end their wish."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from discl.config import ScoreConfig
from discl.plan import PlannedSample
from discl.selection import accepts

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ["key", "status", "text_score"]
HOPELESS = "error"  # the source could not be used: another attempt would fail as well


def is_accepted(score: ScoreConfig | None, planned: PlannedSample, status: str, text_score: float | None) -> bool:
    return status == "ok" and accepts(score, text_score, planned.class_name, planned.level)


class Recorded:
    """Key -> status and text score of a store's rows; about 40 bytes per row. Call it with a planned sample.

    table: the index of the sealed shards. unsealed: rows beside it.
    """

    def __init__(self, score: ScoreConfig | None, table: "pyarrow.Table", unsealed: Iterable[Mapping[str, Any]] = ()):
        rows = list(unsealed)
        keys, statuses, scores = ([*table[name].to_pylist(), *(row[name] for row in rows)] for name in COLUMNS)
        unsorted = np.array(keys, dtype="S32")
        order = np.argsort(unsorted, kind="stable")
        self._score, self._keys = score, unsorted[order]
        self._names, codes = np.unique(np.array(statuses, dtype=str), return_inverse=True)
        self._codes = codes.astype(np.int8)[order]
        self._scores = np.array(scores, dtype=np.float32)[order]  # None becomes NaN

    def __call__(self, planned: PlannedSample) -> bool | None:
        """Whether the sample ends its wish: it is accepted, or no other attempt could be better. None: not made."""
        row = int(np.searchsorted(self._keys, planned.key.encode()))
        if row == len(self._keys) or self._keys[row] != planned.key.encode():
            return None
        status, text_score = str(self._names[self._codes[row]]), float(self._scores[row])
        return ends(self._score, planned, status, None if np.isnan(text_score) else text_score)


def ends(score: ScoreConfig | None, planned: PlannedSample, status: str, text_score: float | None) -> bool:
    return status == HOPELESS or is_accepted(score, planned, status, text_score)
