"""A store and rules in, a selection and what each rule kept out.

Rows are masks over a `Spool`, so every rule reads records in order: a threshold, a quantile and a quota take 100
million rows in the memory that 10 million take, but for one 8-byte number per row while a quantile or quota is sorted.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from discl.ahead import ahead
from discl.attempts import Attempts
from discl.errors import ConfigError, StoreError, nearest
from discl.filtering.coverage import Coverage
from discl.filtering.cuts import above_quantile, best_of_groups
from discl.filtering.duplicates import without_near_duplicates
from discl.filtering.fallback import Fallback, taken_back
from discl.filtering.rules import Rules
from discl.filtering.scores import ShardScores
from discl.filtering.spool import AHEAD, CHUNK, Spool
from discl.filtering.wishes import one_of_each_wish
from discl.labels import unknown_class
from discl.rejection import refuse_below
from discl.store import Store
from discl.store.remote import as_folder


@dataclass(frozen=True)
class Outcome:
    """kept: rule -> images left after it, in the order of the rules. fallback: of `minimum`, None without it."""

    name: str
    recipe: str | None
    kept: dict[str, int]
    coverage: Coverage
    fallback: Fallback | None

    @property
    def count(self) -> int:
        return list(self.kept.values())[-1]


def filter_store(
    path: str | os.PathLike,
    rules: Rules,
    name: str = "default",
    *,
    scorer: str | None = None,
    recipe: str | None = None,
    real_counts: Mapping[str, int] | None = None,
    below_rule: bool = False,
    write: bool = True,
) -> Outcome:
    """Write the selection `name`: keys of images that pass `rules`, one per wish, of one recipe; no shard is touched.

    scorer: judge by scores/<scorer>/ instead of the index. recipe: default the one of selection `default`, else the
    only one there is. real_counts: class name -> real training images, for `balance`; default the class's sources.
    below_rule: allow cuts below those by which early rejection gave samples up. write: False only tells the outcome.
    Raises StoreError for an empty store, one at a URL, scores that lack, several recipes, and cuts below the rejection
    rule; ConfigError for the threshold of a class or level that the store lacks.
    """
    store = Store(as_folder(path))
    if not len(store):
        raise StoreError(f"{store.name} is empty: there is nothing to filter; run `discl generate` first")
    chosen_by = _default_rule(store)
    recipe = recipe if recipe is not None else chosen_by.get("recipe")
    scores = ShardScores(store, scorer) if scorer else None
    if rules.rank is not None and scores is None:
        raise StoreError(
            "rank needs a scorer's scores, the index has none: run `discl score STORE`, then --scorer NAME"
        )
    with Spool(store, recipe, scores) as spool:
        _check_names(rules, spool, store.name)
        attempts = Attempts(chosen_by.get("best_of", 1), chosen_by.get("retries", 0))
        filtering = _Filtering(store, rules, spool, attempts, scores)
        filtering.quality()
        if not below_rule and not scorer:
            refuse_below(store, spool.recipe or "", filtering.cut)
        fallback = filtering.numbers(real_counts)
        if write:
            asked = {"rule": "filter", **rules.to_json(), "recipe": spool.recipe, "kept": filtering.kept}
            asked |= {"scorer": scores.definition} if scores else {}
            asked |= {
                word: chosen_by[word] for word in ("best_of", "retries") if word in chosen_by
            }  # for the next filter
            with closing(ahead(_keys(store, filtering.alive), AHEAD)) as keys:
                store.write_selection_stream(name, keys, asked)
        return Outcome(name, spool.recipe, filtering.kept, Coverage.of(spool, filtering.alive), fallback)


def _check_names(rules: Rules, spool: Spool, store: str) -> None:
    """ConfigError for the threshold of a class or level that no image of the store has: it would cut nothing."""
    levels = spool.levels.tolist()
    for name in rules.class_thresholds:
        if name not in spool.class_names:
            near = nearest(name, spool.class_names)
            raise ConfigError(f"threshold of class {name!r}: {store} has no image of it; the nearest is {near!r}")
    for level in rules.level_thresholds:
        if level not in levels:
            raise ConfigError(f"threshold of level {level}: {store} has no image of it; it has levels {levels}")


def _default_rule(store: Store) -> dict[str, Any]:
    """The rule of the selection `default`, {} without one."""
    return store.selection_rule("default") if (store.path / "selections" / "default.parquet").is_file() else {}


class _Filtering:
    """The rules at work. alive: bool [rows], what passed so far. kept: rule -> how many that were after it."""

    def __init__(self, store: Store, rules: Rules, spool: Spool, attempts: Attempts, scores: ShardScores | None):
        self.store, self.rules, self.spool, self.attempts, self.scores = store, rules, spool, attempts, scores
        self.alive = spool.good.copy()
        self.kept = {"made": spool.made, "with an image": int(self.alive.sum())}
        self._limits = np.full((len(spool.class_names), len(spool.levels)), -np.inf)

    def cut(self, class_name: str, level: int) -> float:
        """The lowest text score that can pass in this class and level."""
        if class_name not in self.spool.class_names or level not in self.spool.levels:
            return -np.inf
        return self._limits[self.spool.class_names.index(class_name), np.searchsorted(self.spool.levels, level)]

    def _after(self, rule: str) -> None:
        self.kept[rule] = int(self.alive.sum())

    def quality(self) -> None:
        """The rules that look at one image, then one image per wish, then near-duplicates."""
        rules, spool = self.rules, self.spool
        if rules.scored:
            self._pass(lambda records: ~np.isnan(records["score"]))
            self._after("scored")
        cuts = None if rules.quantile is None else self._quantile_cuts()
        thresholds = rules.thresholds
        if thresholds:
            asked = [[thresholds.of(name, int(level)) for level in spool.levels] for name in spool.class_names]
            self._at_least(np.array(asked, np.float32), "threshold")
        if cuts is not None:
            self._at_least(cuts, "quantile")
        if rules.margin is not None:
            limit = np.float32(rules.margin)
            self._pass(lambda records: records["margin"] >= limit)
            self._after("margin")
        if rules.rank is not None:
            most = rules.rank
            self._pass(lambda records: (records["rank"] > 0) & (records["rank"] <= most))
            self._after("rank")
        if one_of_each_wish(self.store, spool, self.alive, self.attempts):
            self._after("one per wish")
        if rules.duplicates is not None:
            without_near_duplicates(self.store, spool, self.alive, rules.duplicates, rules.duplicate_cap)
            self._after("near-duplicates")

    def _pass(self, test) -> None:
        for rows, records in self.spool.chunks():
            self.alive[rows] &= test(records)

    def _at_least(self, limits: np.ndarray, rule: str) -> None:
        """limits: [classes, levels]."""
        self._limits = np.maximum(self._limits, limits)
        self._pass(lambda records: records["score"] >= limits[records["class"], records["level"]])
        self._after(rule)

    def _quantile_cuts(self) -> np.ndarray:
        """[classes, levels], of all scored images: the thresholds do not shift it."""
        spool, by = self.spool, self.rules.by
        shape = (len(spool.class_names), len(spool.levels))
        group_of, groups, place = {
            "all": (lambda records: np.zeros(len(records), np.int64), 1, (1, 1)),
            "class": (lambda records: records["class"].astype(np.int64), shape[0], (shape[0], 1)),
            "level": (lambda records: records["level"].astype(np.int64), shape[1], (1, shape[1])),
            "class-level": (spool.by_class_level, shape[0] * shape[1], shape),
        }[by]
        cuts = above_quantile(spool, self.alive, self.rules.quantile or 0.0, group_of, groups)
        return np.broadcast_to(cuts.reshape(place), shape)

    def numbers(self, real_counts: Mapping[str, int] | None) -> Fallback | None:
        """The rules that count images."""
        rules, spool = self.rules, self.spool
        good = self.alive.copy() if rules.minimum is not None else None
        if rules.best is not None:
            pairs = spool.sources * len(spool.levels)
            self.alive = best_of_groups(spool, self.alive, rules.best, spool.by_source_level, pairs)
            self._after(f"best {rules.best} of each source and level")
        if rules.quota is not None or rules.balance is not None:
            quota = rules.quota if rules.quota is not None else _balanced(rules, spool, real_counts)
            by_class = lambda records: records["class"].astype(np.int64)  # noqa: E731
            self.alive = best_of_groups(spool, self.alive, quota, by_class, len(spool.class_names))
            self._after(f"balance {rules.balance}" if rules.balance else f"quota {rules.quota} of each class")
        if good is None or rules.minimum is None:
            return None
        fallback = taken_back(spool, self.alive, good & ~self.alive, rules.minimum)
        self._after(f"minimum {rules.minimum} of each source and level")
        return fallback


def _balanced(rules: Rules, spool: Spool, real_counts: Mapping[str, int] | None) -> np.ndarray:
    """int64 [classes]: synthetic images that bring each class to its target."""
    if real_counts is None:
        real = np.bincount(spool.source_class, minlength=len(spool.class_names))
        largest = real.max(initial=0)
    else:
        lost = [name for name in spool.class_names if name not in real_counts]
        if lost:
            raise unknown_class(lost[0], "which the store has; give the config it was made with")
        real = np.array([real_counts[name] for name in spool.class_names], np.int64)
        largest = max(real_counts.values(), default=0)
    target = {
        "full": np.full(len(real), largest),
        "sqrt": np.round(np.sqrt(real * float(largest))).astype(np.int64),
        "capped": np.full(len(real), min(largest, rules.balance_cap or 0)),
    }[rules.balance or "full"]
    return np.maximum(target - real, 0)


def _keys(store: Store, alive: np.ndarray) -> Iterator[pa.Array]:
    start = 0
    for batch in store.scan(["key"], rows=CHUNK):
        yield batch["key"].filter(pa.array(alive[start : start + len(batch)]))
        start += len(batch)
