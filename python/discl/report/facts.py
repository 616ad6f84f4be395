"""A store comes in; the facts that every section of the page needs go out, as plain columns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from discl.config.thresholds import Thresholds, as_tables
from discl.filtering.scores import ShardScores, scorer_of
from discl.store.columns import classes


@dataclass(frozen=True)
class Facts:
    """Columns of the N samples of a store, all in the index's order.

    `score` is the text score, `margin` its lead over the best other class (float32, NaN where there is none), `kept`
    says whether the selection holds the sample, `stored` whether its image is in a shard, `judged` whether `score` is
    what the rule's thresholds are about: the index's, or of the scorer that it names. `class_id` numbers the C
    classes that occur, in the order of their numbers in the store; `class_names` are their names.
    """

    key: pa.ChunkedArray
    source: np.ndarray
    class_id: np.ndarray
    class_names: dict[int, str]
    level: np.ndarray
    seed: np.ndarray
    retry: np.ndarray
    score: np.ndarray
    margin: np.ndarray
    status: np.ndarray
    stored: np.ndarray
    kept: np.ndarray
    rule: dict[str, Any]
    judged: bool
    reader: Callable[[str], bytes]

    def __len__(self) -> int:
        return len(self.key)

    def image(self, row: int) -> bytes:
        """The encoded image of a stored sample."""
        return self.reader(self.key[int(row)].as_py())

    @cached_property
    def levels(self) -> list[int]:
        return [int(level) for level in np.unique(self.level)]

    @property
    def scored(self) -> np.ndarray:
        """bool [N]: finished samples with a text score; only these can move with the threshold."""
        return (self.status == "ok") & np.isfinite(self.score)

    @property
    def threshold(self) -> float | None:
        """The rule's one threshold of `score`; None where classes or levels have their own, or another score counts."""
        return one_threshold(self.rule) if self.judged else None

    @property
    def lead(self) -> np.ndarray:
        """float64 [N]: of `score` over the threshold that the rule has for the sample's class and level; of `score`
        itself without such a threshold."""
        threshold = self.rule.get("threshold")
        if threshold is None or not self.judged:
            return self.score.astype(np.float64)
        limits = Thresholds.model_validate(as_tables(threshold))
        of = np.array([[limits.of(name, level) for level in self.levels] for name in self.class_names.values()])
        own = of[self.class_id, np.searchsorted(self.levels, self.level)]
        return self.score.astype(np.float64) - own.astype(np.float32)  # the filter compares in float32


def one_threshold(rule: dict[str, Any]) -> float | None:
    """The rule's threshold where it is one for all classes and levels."""
    threshold = rule.get("threshold")
    if isinstance(threshold, dict) and not threshold.get("classes") and not threshold.get("levels"):
        threshold = threshold.get("default")
    return float(threshold) if isinstance(threshold, int | float) else None


def store_facts(store: Any, selection: str = "default") -> Facts:
    """Facts of a `discl.Store` and one of its selections, over the recipe that the selection is about."""
    rule = dict(store.selection_rule(selection))
    table, scores = store.table, _named_scores(store, rule)
    if scores is not None:
        for name in ("text_score", "margin"):
            table = table.set_column(table.schema.get_field_index(name), name, scores[name])
    if "recipe" in rule:  # samples of other recipes were never candidates
        table = table.filter(pc.equal(table["recipe"], rule["recipe"]))
    table = table.combine_chunks()
    coded = classes(table).combine_chunks().dictionary_encode()
    lowest = np.full(len(coded.dictionary), np.iinfo(np.int64).max)
    np.minimum.at(lowest, coded.indices.to_numpy(), _numbers(table["class_id"]))
    order = np.argsort(lowest, kind="stable")
    names = coded.dictionary.take(pa.array(order)).to_pylist()
    return Facts(
        key=table["key"],
        source=_words(table["source_id"]),
        class_id=np.argsort(order)[coded.indices.to_numpy()],
        class_names=dict(enumerate(names)),
        level=_numbers(table["level"]),
        seed=_numbers(table["seed"]),
        retry=_numbers(table["retry"]),
        score=_floats(table, "text_score"),
        margin=_floats(table, "margin"),
        status=_words(table["status"]),
        stored=table["shard"].is_valid().to_numpy(),
        kept=pc.is_in(table["key"], pa.array(store.selection(selection), pa.string())).to_numpy(),
        rule=rule,
        judged="scorer" not in rule or scores is not None,
        reader=store.read,
    )


def _named_scores(store: Any, rule: dict[str, Any]) -> pa.Table | None:
    """Rows as the index's, of the scorer that the rule names; None where it names none or the store lacks some."""
    digest = rule.get("scorer", {}).get("digest")
    name = scorer_of(store, digest) if digest else None
    if name is None:
        return None
    scores, parts = ShardScores(store, name), []
    for shard in store.shards:
        part = scores.read(shard, ["key", "text_score", "margin"])
        if part is None:
            return None
        parts.append(part)
    return pa.concat_tables(parts) if parts else None


def _floats(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        return np.full(len(table), np.nan, np.float32)
    return table[name].cast(pa.float32()).fill_null(np.nan).to_numpy()


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.fill_null(0).to_numpy().astype(np.int64)  # stores that others wrote may lack what we plan by


def _words(column: pa.ChunkedArray) -> np.ndarray:
    """Objects that share one string per different value: eight bytes per row."""
    coded = column.fill_null("").combine_chunks().dictionary_encode()
    return np.array(coded.dictionary.to_pylist(), dtype=object)[coded.indices.to_numpy()]
