"""A store comes in; the facts that every section of the page needs go out, as plain columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

COLUMNS = (
    "key", "source_id", "class_id", "class_name", "level", "seed", "retry", "text_score", "status", "shard",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """Columns of the N samples of a store, all in the index's order.

    `score` is the text score (float32, NaN where there is none), `kept` says whether the selection holds the
    sample, `stored` whether its image is in a shard. `class_names` maps the C class ids that occur.
    """

    key: np.ndarray
    source: np.ndarray
    class_id: np.ndarray
    class_names: dict[int, str]
    level: np.ndarray
    seed: np.ndarray
    retry: np.ndarray
    score: np.ndarray
    status: np.ndarray
    stored: np.ndarray
    kept: np.ndarray
    rule: dict[str, Any]
    read: Callable[[str], bytes]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def levels(self) -> list[int]:
        return [int(level) for level in np.unique(self.level)]

    @property
    def scored(self) -> np.ndarray:
        """bool [N]: finished samples with a text score; only these can move with the threshold."""
        return (self.status == "ok") & np.isfinite(self.score)

    @property
    def threshold(self) -> float | None:
        """The rule's one threshold; None where classes or levels have their own, or nothing is scored."""
        threshold = self.rule.get("threshold")
        if isinstance(threshold, dict) and not threshold.get("classes") and not threshold.get("levels"):
            threshold = threshold.get("default")
        return float(threshold) if isinstance(threshold, int | float) else None


def store_facts(store: Any, selection: str = "default") -> Facts:
    """Facts of a `discl.Store` and one of its selections (keys that the store has not are ignored)."""
    table = store.table.select(list(COLUMNS))
    column = {name: table[name].to_pylist() for name in COLUMNS}
    accepted = set(store.selection(selection))
    return Facts(
        key=np.array(column["key"], dtype=object),
        source=np.array(column["source_id"], dtype=object),
        class_id=np.array(column["class_id"], dtype=np.int64),
        class_names=dict(sorted(zip(column["class_id"], column["class_name"], strict=True))),
        level=np.array(column["level"], dtype=np.int64),
        seed=np.array(column["seed"], dtype=np.int64),
        retry=np.array(column["retry"], dtype=np.int64),
        score=np.array([np.nan if s is None else s for s in column["text_score"]], dtype=np.float32),
        status=np.array(column["status"], dtype=object),
        stored=np.array([shard is not None for shard in column["shard"]], dtype=bool),
        kept=np.array([key in accepted for key in column["key"]], dtype=bool),
        rule=dict(store.selection_rule(selection)),
        read=store.read,
    )
