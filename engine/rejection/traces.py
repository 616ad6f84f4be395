"""Recorded previews of requests that ran to their end: what a rule is calibrated on, tested on and replayed from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from discl.errors import DisclError


@dataclass(frozen=True, eq=False)
class Traces:
    """n samples of one level, each looked at after the same `checks` of `steps` executed steps.

    key, group, text: str [n]; samples of one group (a source) must not be told apart when data are split.
    looks float32 [n, checks, LOOK], source float32 [n, 2], see `evidence`. score, threshold float32 [n]: the finished
    image's text score and the lowest that is accepted.
    """

    level: int
    steps: int
    checks: tuple[int, ...]
    key: np.ndarray
    group: np.ndarray
    text: np.ndarray
    looks: np.ndarray
    source: np.ndarray
    score: np.ndarray
    threshold: np.ndarray

    def __len__(self) -> int:
        return len(self.key)

    @property
    def accepted(self) -> np.ndarray:
        return self.score >= self.threshold

    def take(self, rows: np.ndarray) -> "Traces":
        """The samples of an index or mask."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        return Traces(self.level, self.steps, self.checks, **arrays)

    def at(self, checks: Sequence[int]) -> np.ndarray:
        """The looks [n, len(checks), LOOK] after these steps."""
        return self.looks[:, [self.checks.index(check) for check in checks]]


ARRAYS = tuple(field.name for field in fields(Traces))[3:]


def save_traces(file: str | Path, traces: Sequence[Traces]) -> None:
    """Write an .npz without objects."""
    arrays = {f"{each.level}/{name}": getattr(each, name) for each in traces for name in ARRAYS}
    places = {f"{each.level}/checks": np.array([each.steps, *each.checks]) for each in traces}
    np.savez_compressed(file, **arrays, **places)


def load_traces(file: str | Path) -> list[Traces]:
    """Raises DisclError for a file that is not what `save_traces` writes."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            levels = sorted({int(name.split("/")[0]) for name in stored.files})
            return [_loaded(stored, level) for level in levels]
    except (OSError, ValueError, KeyError) as error:
        raise DisclError(f"{file}: no traces of early rejection ({error}); record them again") from error


def _loaded(stored, level: int) -> Traces:
    steps, *checks = stored[f"{level}/checks"].tolist()
    return Traces(level, steps, tuple(checks), **{name: stored[f"{level}/{name}"] for name in ARRAYS})
