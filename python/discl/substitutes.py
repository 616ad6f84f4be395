"""Rows that cannot be read or decoded, and the rows that stand in for them."""

import logging

import numpy as np

from discl.errors import RunFailed

log = logging.getLogger(__name__)


class Substitutes:
    """For a bad row, the next good one (cyclic) of its class and level in the dataset.

    Which row that is depends on the images alone, not on when the damage was found, so all ranks and restarts agree.
    `bad`: rows and reasons, as far as this process has met them.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.bad: dict[int, str] = {}

    def reject(self, row: int, reason: str) -> None:
        """Never use this row again."""
        if row not in self.bad:
            log.warning("row %d is replaced: %s", row, reason)
        self.bad[row] = reason

    def of(self, row: int) -> int:
        """The row itself while nothing is known against it. RunFailed: nothing is left that could stand in."""
        if row not in self.bad:
            return row
        dataset = self.dataset
        same = (dataset.labels == dataset.labels[row]) & (dataset.levels == dataset.levels[row])
        others = np.flatnonzero(same)
        for other in np.roll(others, -int(np.searchsorted(others, row))).tolist():
            if other not in self.bad:
                return other
        name = dataset.class_names[dataset.labels[row]]
        raise RunFailed(f"no usable image of class {name!r} at level {dataset.levels[row]} is left: {self.bad[row]}")
