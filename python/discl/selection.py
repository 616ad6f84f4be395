"""Scores in a store's index in, the keys accepted by the threshold rule out (paper 2)."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from discl.attempts import Attempts
from discl.config import ScoreConfig
from discl.errors import ConfigError, StoreError, nearest
from discl.prompts import class_texts
from discl.rejection import refuse_below_rule

if TYPE_CHECKING:
    import pyarrow

    from discl.store import Store

log = logging.getLogger(__name__)

SINGLE = Attempts()  # one attempt per wish


def accepts(score: ScoreConfig | None, text_score: float | None, class_name: str, level: int) -> bool:
    """Whether one good image is kept: text score >= threshold in float32; without [score] always."""
    if score is None:
        return True
    if text_score is None:
        return False
    return bool(np.float32(text_score) >= np.float32(score.threshold.of(class_name, level)))


def check_classes(score: ScoreConfig | None, class_names: Sequence[str]) -> None:
    """ConfigError where [score] does not fit the data's classes: its prompt must tell them apart, and a threshold of a
    class that the data does not have would never count."""
    if score is None:
        return
    class_texts(score.prompt, class_names, "score.prompt")
    for name in score.threshold.classes:
        if name not in class_names:
            raise ConfigError(
                f"[score.threshold] names the class {name!r}, which the data does not have; "
                f"the nearest is {nearest(name, class_names)!r}"
            )


def accepted_rows(table: "pyarrow.Table", score: ScoreConfig | None) -> list[dict[str, Any]]:
    """The rows of the index whose status is ok and whose score the rule accepts, with what `one_of_each` asks for."""
    names = ["key", "recipe", "shard", "status", "text_score", "class_name", "level", "retry", "attempt_of"]
    rows = table.select(names).to_pylist()
    return [
        row
        for row in rows
        if row["status"] == "ok" and accepts(score, row["text_score"], row["class_name"], row["level"])
    ]


def one_of_each(rows: Iterable[dict[str, Any]], attempts: Attempts) -> list[dict[str, Any]]:
    """Accepted rows in, of every wish the one that stands for it out (see `Attempts.best`)."""
    wishes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        wishes[row["attempt_of"] or row["key"]].append(row)
    return [attempts.best(accepted) for accepted in wishes.values()]


def check_kept(store: "Store", score: ScoreConfig | None, keep: str, recipe: str, attempts: Attempts = SINGLE) -> None:
    """StoreError where images that would be selected were not kept by an earlier run: their keys are not made again."""
    if keep != "scores":
        _refuse_lost(_chosen(accepted_rows(store.table, score), recipe, attempts))


def _chosen(accepted: Iterable[dict[str, Any]], recipe: str, attempts: Attempts) -> list[dict[str, Any]]:
    return one_of_each((row for row in accepted if row["recipe"] == recipe), attempts)


def _refuse_lost(rows: Iterable[dict[str, Any]]) -> None:
    lost = sum(row["shard"] is None for row in rows)
    if lost:
        raise StoreError(
            f"{lost} accepted samples have no image in this store: an earlier run kept scores alone, or fewer images "
            '(store.keep, with a higher score.threshold); generate into a new store, or set store.keep = "scores"'
        )


def select_by_threshold(
    store: "Store",
    score: ScoreConfig | None,
    keep: str,
    recipe: str,
    name: str = "default",
    attempts: Attempts = SINGLE,
    below_rule: bool = False,
) -> list[str]:
    """Write the selection `name`: one accepted key of one recipe per wish; returns those with an image.

    Accepted rows of other recipes stay in the store but out of the selection; its rule counts them.
    Raises StoreError when accepted images were thrown away by an earlier run with a higher threshold, and, unless
    `below_rule` allows it, for a threshold below the one by which early rejection gave samples up.
    """
    if not below_rule:
        refuse_below_rule(store, score, recipe)
    accepted = accepted_rows(store.table, score)
    rows = _chosen(accepted, recipe, attempts)
    if keep != "scores":
        _refuse_lost(rows)
    others = Counter(row["recipe"] for row in accepted if row["recipe"] != recipe)
    if others:
        log.warning(
            "selection %r leaves out %d accepted samples of other recipes: %s",
            name, others.total(), ", ".join(sorted(others)),
        )  # fmt: skip
    keys = [row["key"] for row in rows if row["shard"] is not None]
    store.write_selection(
        name, keys, {**rule_of(score, attempts), "recipe": recipe, "left_out": dict(sorted(others.items()))}
    )
    return keys


def rule_of(score: ScoreConfig | None, attempts: Attempts = SINGLE) -> dict[str, Any]:
    """The rule as JSON, as it stands beside the selection."""
    best = {} if attempts == SINGLE else {"best_of": attempts.best_of, "retries": attempts.retries}
    if score is None:
        return {"rule": "ok", **best}
    return {
        "rule": "threshold",
        "clip": score.clip,
        "prompt": score.prompt,
        "threshold": score.threshold.model_dump(mode="json"),
        **best,
    }
