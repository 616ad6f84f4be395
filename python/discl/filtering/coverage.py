"""Rows and a mask over them in, kept and made images by (class, level) and (source, level) out, as numbers and text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from discl.filtering.spool import Spool

LINES = 40


@dataclass(frozen=True)
class Coverage:
    """int64 tables, rows x levels: of classes and of sources, made and kept. source_names: of the first sources.
    there: bool [sources], those that images were asked of."""

    levels: list[int]
    class_names: list[str]
    source_names: list[str]
    class_made: np.ndarray
    class_kept: np.ndarray
    source_made: np.ndarray
    source_kept: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, spool: Spool, mask: np.ndarray) -> "Coverage":
        tables: list[np.ndarray] = []
        for group_of, rows in ((spool.by_class_level, len(spool.class_names)), (spool.by_source_level, spool.sources)):
            for each in (spool.good, mask):
                tables.append(spool.counts(each, group_of, rows * len(spool.levels)).reshape(rows, -1))
        tables.append(spool.there)
        return cls(spool.levels.tolist(), spool.class_names, spool.source_names, *tables)

    @property
    def holes(self) -> int:
        """(source, level) pairs without a kept image, also of sources that have no image at all."""
        return int((self.source_kept[self.there] == 0).sum())

    def lines(self) -> list[str]:
        """Both tables, "kept/made" in every cell; of many rows those with the least kept."""
        of = int(self.there.sum())
        pairs, full = of * len(self.levels), int((self.source_kept[self.there] > 0).all(1).sum())
        return [
            *self._table("class", self.class_names, self.class_kept, self.class_made, self.class_made.sum(1) > 0),
            "",
            *self._table("source", self.source_names, self.source_kept, self.source_made, self.there),
            f"{full:,} of {of:,} sources have every level; {self.holes:,} of {pairs:,} (source, level) pairs are holes",
        ]

    def _table(
        self, what: str, names: Sequence[str], kept: np.ndarray, made: np.ndarray, rows: np.ndarray
    ) -> list[str]:
        there = np.flatnonzero(rows[: len(names)])
        shown = there[np.lexsort((there, kept[there].sum(1), (kept[there] > 0).sum(1)))][:LINES]
        cells = [[f"{kept[at, n]:,}/{made[at, n]:,}" for n in range(len(self.levels))] for at in sorted(shown)]
        heads = [f"level {level}" for level in self.levels]
        widths = [max(len(head), *(len(row[n]) for row in cells), 0) for n, head in enumerate(heads)] if cells else []
        lines = ["  ".join([*(head.rjust(width) for head, width in zip(heads, widths, strict=bool(cells))), what])]
        for row, at in zip(cells, sorted(shown), strict=True):
            lines.append("  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), names[at]]))
        hidden = int(rows.sum()) - len(shown)
        which = "with more kept" if len(names) >= len(rows) else f"(these are of the first {len(names):,})"
        return [*lines, *([f"... and {hidden:,} more {which}"] if hidden else [])]
