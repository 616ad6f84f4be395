"""The threshold rule, against a plain loop, and what it refuses."""

import numpy as np
import pyarrow as pa
import pytest

from discl.config import ScoreConfig, Thresholds
from discl.errors import ConfigError, StoreError
from discl.selection import accepted_rows, accepts, check_classes, select_by_threshold


class FakeStore:
    path = "nowhere"

    def __init__(self, table: pa.Table):
        self.table = table

    def write_selection(self, name, keys, rule):
        self.written = (name, keys, rule)


def index(seed: int = 0, count: int = 400) -> pa.Table:
    random = np.random.default_rng(seed)
    status = random.choice(["ok", "nan", "error"], count, p=[0.9, 0.05, 0.05])
    scores = random.uniform(0.1, 0.5, count).astype(np.float32)
    return pa.table(
        {
            "key": [f"{i:032x}" for i in range(count)],
            "recipe": ["r"] * count,
            "shard": pa.array([0 if one == "ok" else None for one in status], pa.int32()),
            "status": status.tolist(),
            "text_score": pa.array(np.where(status == "ok", scores, np.nan), pa.float32(), from_pandas=True),
            "class_name": random.choice(["owl", "fox"], count).tolist(),
            "level": pa.array(random.choice([0, 30], count), pa.int32()),
            "retry": pa.array([0] * count, pa.int32()),
            "attempt_of": pa.array([None] * count, pa.string()),
        }
    )


def test_accepted_rows_are_those_at_or_above_their_threshold():
    score = ScoreConfig(threshold=Thresholds(default=0.3, classes={"owl": 0.2}, levels={30: 0.4}))
    found = {row["key"] for row in accepted_rows(index(), score)}
    expected = set()
    for row in index().to_pylist():
        limit = 0.2 if row["class_name"] == "owl" else 0.4 if row["level"] == 30 else 0.3
        if row["status"] == "ok" and row["text_score"] >= limit:
            expected.add(row["key"])
    assert found == expected
    assert 0 < len(found) < 400


def test_without_score_every_good_image_is_accepted():
    keys = [row["key"] for row in accepted_rows(index(), None)]
    assert keys == [row["key"] for row in index().to_pylist() if row["status"] == "ok"]


def test_the_threshold_itself_is_accepted_also_after_float32():
    score = ScoreConfig(threshold=0.3)
    assert accepts(score, float(np.float32(0.3)), "owl", 0)
    assert accepts(score, 0.3, "owl", 0)
    assert not accepts(score, float(np.nextafter(np.float32(0.3), np.float32(0))), "owl", 0)
    assert not accepts(score, None, "owl", 0)


def test_the_rule_is_written_beside_the_keys():
    store = FakeStore(index())
    keys = select_by_threshold(store, ScoreConfig(threshold=0.3), "all", "r")
    name, written, rule = store.written
    assert (name, written) == ("default", keys)
    assert rule["rule"] == "threshold"
    assert rule["threshold"]["default"] == 0.3
    assert (rule["recipe"], rule["left_out"]) == ("r", {})


def test_rows_of_other_recipes_are_left_out_and_counted():
    table = index()
    recipes = ["r" if number % 3 else "s" for number in range(len(table))]
    store = FakeStore(table.set_column(1, "recipe", pa.array(recipes)))
    accepted = {row["key"]: row["recipe"] for row in accepted_rows(store.table, ScoreConfig(threshold=0.3))}
    keys = select_by_threshold(store, ScoreConfig(threshold=0.3), "all", "r")
    assert keys == [key for key, recipe in accepted.items() if recipe == "r"]
    assert store.written[2]["left_out"] == {"s": len(accepted) - len(keys)}


def test_accepted_images_that_were_thrown_away_are_an_error():
    table = index().set_column(2, "shard", pa.nulls(400, pa.int32()))
    with pytest.raises(StoreError, match="have no image in this store"):
        select_by_threshold(FakeStore(table), ScoreConfig(threshold=0.3), "accepted", "r")
    store = FakeStore(table)
    assert select_by_threshold(store, ScoreConfig(threshold=0.3), "scores", "r") == []


def test_a_class_that_the_data_has_not_is_named_with_the_nearest():
    check_classes(None, ("owl",))
    check_classes(ScoreConfig(threshold=Thresholds(classes={"owl": 0.2})), ("owl", "fox"))
    with pytest.raises(ConfigError, match="class 'foks', which the data does not have; the nearest is 'fox'"):
        check_classes(ScoreConfig(threshold=Thresholds(classes={"owl": 0.2, "foks": 0.2})), ("owl", "fox"))
