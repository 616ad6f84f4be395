"""`discl filter` against plain loops over the index, its file format, and what it refuses."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from discl.cli import main
from discl.errors import ConfigError, StoreError
from discl.filtering import Rules, filter_store
from discl.store import Store, StoreWriter, verify
from tests.discl.store_samples import key

LEVELS = (0, 10, 30, 50)
CLASSES = ("owl", "red fox", "käfer")


def rows(count: int = 600, seed: int = 0) -> list[dict]:
    """Scores in steps of 1/64, so that many are equal; some rows have no image, no score or failed."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        source = int(random.integers(30))
        status = "ok" if random.random() < 0.9 else "rejected-early"
        made.append({
            "key": key(i), "recipe": "r", "source_id": f"s{source}", "class_id": source % 3,
            "class_name": CLASSES[source % 3], "level": int(random.choice(LEVELS)), "status": status,
            "text_score": None if random.random() < 0.05 else float(random.integers(8, 32)) / 64,
            "margin": float(random.normal() / 10), "control": False,
        })  # fmt: skip
    return made


def store_of(folder: Path, made: list[dict], vectors=None, per_shard: int = 250) -> Store:
    for start in range(0, len(made), per_shard):
        with StoreWriter(folder, "run", shard_bytes=1 << 30, embeddings=vectors is not None) as writer:
            for at, row in enumerate(made[start : start + per_shard], start):
                image = b"image" if row["status"] == "ok" and not row.get("bare") else None
                vector = None if vectors is None else vectors[at]
                writer.append({k: v for k, v in row.items() if k != "bare"}, image, "png", vector)
    return Store(folder)


def score(row: dict) -> np.float32:
    return np.float32(np.nan if row["text_score"] is None else row["text_score"])


def order(row: dict) -> tuple:
    return -score(row), row["key"]


def best(alive: list[dict], group, most) -> list[dict]:
    groups = defaultdict(list)
    for row in alive:
        groups[group(row)].append(row)
    return [row for name, each in groups.items() for row in sorted(each, key=order)[: most(name)]]


def filtered(store: Store, **rules) -> set[str]:
    filter_store(store.path, Rules(**rules), "mine")
    return set(Store(store.path).selection("mine"))


def pair(row: dict) -> tuple:
    return row["source_id"], row["level"]


@pytest.fixture(scope="module")
def made() -> list[dict]:
    return rows()


@pytest.fixture(scope="module")
def store(tmp_path_factory, made) -> Store:
    return store_of(tmp_path_factory.mktemp("filter") / "s", made)


@pytest.fixture(scope="module")
def scored(made) -> list[dict]:
    return [row for row in made if row["status"] == "ok" and row["text_score"] is not None]


def test_no_rule_keeps_every_good_image(store, made):
    assert filtered(store) == {row["key"] for row in made if row["status"] == "ok"}


def test_thresholds_of_class_level_and_all(store, scored):
    rules = {"threshold": 0.25, "class_thresholds": {"owl": 0.4}, "level_thresholds": {30: 0.2}}
    expected = set()
    for row in scored:
        limit = 0.4 if row["class_name"] == "owl" else 0.2 if row["level"] == 30 else 0.25
        if score(row) >= np.float32(limit):
            expected.add(row["key"])
    assert filtered(store, **rules) == expected and expected


@pytest.mark.parametrize("by", ["all", "class", "level", "class-level"])
def test_quantiles_are_numpys(store, scored, by):
    names = {"all": lambda r: 0, "class": lambda r: r["class_id"], "level": lambda r: r["level"],
             "class-level": lambda r: (r["class_id"], r["level"])}  # fmt: skip
    groups = defaultdict(list)
    for row in scored:
        groups[names[by](row)].append(row)
    expected = set()
    for each in groups.values():
        cut = np.quantile([np.float64(score(row)) for row in each], 0.37)
        expected |= {row["key"] for row in each if score(row) >= cut}
    assert filtered(store, quantile=0.37, by=by) == expected


def test_margin(store, made):
    expected = {row["key"] for row in made if row["status"] == "ok" and np.float32(row["margin"]) >= np.float32(0.05)}
    assert filtered(store, margin=0.05) == expected


def test_best_of_every_source_and_level_with_ties_by_key(store, scored):
    assert filtered(store, best=2) == {row["key"] for row in best(scored, pair, lambda _: 2)}


def test_quota_of_every_class_after_a_threshold(store, scored):
    alive = [row for row in scored if score(row) >= np.float32(0.3)]
    expected = {row["key"] for row in best(alive, lambda r: r["class_id"], lambda _: 40)}
    assert filtered(store, threshold=0.3, quota=40) == expected
    assert len(expected) == 120


@pytest.mark.parametrize(
    ("balance", "cap", "wanted"),
    [
        ("full", None, {"owl": 90, "red fox": 60, "käfer": 0}),
        (
            "sqrt",
            None,
            {"owl": round(math.sqrt(10 * 100)) - 10, "red fox": round(math.sqrt(40 * 100)) - 40, "käfer": 0},
        ),
        ("capped", 50, {"owl": 40, "red fox": 10, "käfer": 0}),
    ],
)
def test_balance_fills_up_to_the_target(store, scored, balance, cap, wanted):
    rules = Rules(balance=balance, balance_cap=cap)
    filter_store(store.path, rules, "mine", real_counts={"owl": 10, "red fox": 40, "käfer": 100})
    expected = {row["key"] for row in best(scored, lambda r: r["class_name"], wanted.__getitem__)}
    assert set(Store(store.path).selection("mine")) == expected


def test_minimum_takes_back_from_the_level_itself_and_then_from_the_next(tmp_path):
    """One source; best = 1 leaves level 0 one of three, level 10 none, level 30 one of two, level 50 one of one."""
    scores = {0: [0.4, 0.3, 0.2], 30: [0.5, 0.35], 50: [0.1]}
    made = [
        {"key": key(10 * level + n), "recipe": "r", "source_id": "s", "class_id": 0, "class_name": "owl",
         "level": level, "status": "ok", "text_score": value}
        for level, values in scores.items() for n, value in enumerate(values)
    ]  # fmt: skip
    made.append(made[0] | {"key": key(999), "level": 10, "text_score": 0.05})
    store = store_of(tmp_path / "s", made)
    outcome = filter_store(store.path, Rules(threshold=0.1, best=1, minimum=2), "mine")
    left_out = {
        key(2),
        key(999),
    }  # level 0's own second comes back, level 30's fills 30; level 10 takes level 0's third
    assert set(Store(store.path).selection("mine")) == {row["key"] for row in made} - left_out | {key(2)}
    assert (outcome.fallback.lacking, outcome.fallback.own_level, outcome.fallback.other_level) == (5, 2, 1)
    assert outcome.fallback.left == 2


def test_near_duplicates_of_one_source_are_capped(tmp_path):
    random = np.random.default_rng(3)
    made = [row for row in rows(200, seed=3)]
    base = {row["source_id"]: random.normal(size=(3, 16)) for row in made}
    vectors = [base[row["source_id"]][random.integers(3)] + random.normal(size=16) * 0.01 for row in made]
    store = store_of(tmp_path / "s", made, [vector.astype(np.float32) for vector in vectors])
    for cap in (1, 2):
        expected = set()
        for source in base:
            kept: list[np.ndarray] = []
            of = [(row, v) for row, v in zip(made, vectors, strict=True) if row["source_id"] == source]
            of = [pair for pair in of if pair[0]["status"] == "ok" and pair[0]["text_score"] is not None]
            for row, vector in sorted(of, key=lambda pair: order(pair[0])):
                unit = vector / np.linalg.norm(vector)
                if sum(unit @ other > 0.9 for other in kept) < cap:
                    kept.append(unit)
                    expected.add(row["key"])
        assert filtered(store, threshold=-1.0, duplicates=0.9, duplicate_cap=cap) == expected


def test_of_several_attempts_one_stands_for_the_wish(tmp_path):
    made = []
    for wish in range(40):
        for retry in range(1 + wish % 3):
            row = rows(1, seed=wish)[0] | {"key": key(100 * wish + retry), "status": "ok", "retry": retry}
            made.append(row | {"text_score": 0.2 + retry / 10, "attempt_of": key(100 * wish) if retry else None})
    store = store_of(tmp_path / "s", made)
    expected = {key(100 * wish + min(wish % 3, 1)) for wish in range(40) if wish % 3}
    assert filtered(store, threshold=0.25) == expected  # the first retry that passes, not the best


def test_a_filter_after_a_filter_knows_how_many_candidates_a_wish_had(tmp_path):
    made = [row | {"key": key(n), "status": "ok", "retry": n, "attempt_of": key(0) if n else None, "text_score": score}
            for n, (row, score) in enumerate(zip(rows(1) * 3, (0.3, 0.5, 0.4), strict=True))]  # fmt: skip
    store = store_of(tmp_path / "s", made)
    store.write_selection("default", [], {"rule": "threshold", "recipe": "r", "best_of": 3, "retries": 0})
    for threshold in (0.1, 0.2):
        filter_store(store.path, Rules(threshold=threshold))
        assert Store(store.path).selection("default") == [key(1)], "the best of three"


def test_coverage_is_of_one_recipe_and_counts_sources_of_which_nothing_is_left(tmp_path):
    wanted = [("a", 0, "r", "ok"), ("a", 30, "r", "ok"), ("b", 0, "r", "rejected-early"), ("c", 50, "q", "ok")]
    made = [row | {"key": key(n), "source_id": source, "level": level, "recipe": recipe, "status": status}
            for n, (row, (source, level, recipe, status)) in enumerate(zip(rows(1) * 4, wanted, strict=True))
            ]  # fmt: skip
    store = store_of(tmp_path / "s", made)
    outcome = filter_store(store.path, Rules(minimum=1), "mine", recipe="r")
    assert outcome.coverage.levels == [0, 30] and outcome.coverage.holes == 2
    assert "1 of 2 sources have every level; 2 of 4 " in "\n".join(outcome.coverage.lines())
    assert outcome.fallback.left == 2
    with pytest.raises(StoreError, match="no image of the recipe 'rr'; it has q, r"):
        filter_store(store.path, Rules(), recipe="rr")


def test_early_rejection_bounds_the_cut(tmp_path, made):
    store = store_of(tmp_path / "s", made)
    (store.path / "rejection").mkdir()
    (store.path / "rejection" / "r.json").write_text('{"threshold": {"default": 0.3}}')
    for rules in ({"threshold": 0.29}, {"quota": 5}):
        with pytest.raises(StoreError, match="by which early rejection gave samples up"):
            filtered(store, **rules)
    assert filtered(store, threshold=0.3)
    filter_store(store.path, Rules(threshold=0.2), "mine", below_rule=True)


def test_what_is_refused(tmp_path, store, made):
    with StoreWriter(tmp_path / "empty", "run", shard_bytes=1000):
        pass
    with pytest.raises(StoreError, match="is empty"):
        filter_store(tmp_path / "empty", Rules())
    with pytest.raises(StoreError, match="rank needs a scorer"):
        filter_store(store.path, Rules(rank=1))
    with pytest.raises(StoreError, match="has no scores of 'x'"):
        filter_store(store.path, Rules(), scorer="x")
    with pytest.raises(StoreError, match="no embeddings"):
        filtered(store, duplicates=0.9)
    with pytest.raises(StoreError, match="the data has no class"):
        filter_store(store.path, Rules(balance="full"), real_counts={"owl": 3})
    other = store_of(tmp_path / "two", [*made[:50], *(row | {"recipe": "q"} for row in made[50:60])])
    with pytest.raises(StoreError, match="--recipe"):
        filter_store(other.path, Rules())
    assert filter_store(other.path, Rules(), recipe="q").kept["made"] <= 10
    for rules in ({"threshold": float("nan")}, {"threshold": 1.5}, {"class_thresholds": {"owl": -2}}, {"quantile": 1.5},
                  {"best": 0}, {"quota": 3, "balance": "full"},
                  {"balance": "capped"}, {"balance_cap": 4}):  # fmt: skip
        with pytest.raises(ConfigError):
            Rules(**rules)


def test_a_store_at_a_url_is_to_be_brought_first(store, capsys):
    assert main(["filter", f"file://{store.path}", "--threshold", "0.1"]) == 2
    assert "discl store merge" in capsys.readouterr().err


def test_the_command_prints_rules_and_coverage_and_a_dry_run_writes_nothing(store, capsys):
    assert main(["filter", str(store.path), "--threshold", "0.3", "--best", "1", "--name", "cli", "--dry-run"]) == 0
    assert not (store.path / "selections/cli.parquet").exists()
    assert (
        main(["filter", str(store.path), "--threshold", "0.3", "--best", "1", "--minimum", "1", "--name", "cli"]) == 0
    )
    text = capsys.readouterr().out
    assert "level 30" in text and "käfer" in text and "best 1 of each source and level" in text and "holes" in text
    assert not list(verify(store.path))
    rule = Store(store.path).selection_rule("cli")
    assert rule["rule"] == "filter" and rule["best"] == 1 and rule["threshold"]["default"] == 0.3
    assert main(["filter", str(store.path), "--quantile", "7"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["filter", str(store.path), "--class-threshold", "owl"])


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--class-threshold=owll=0.3", "'owl'"),
        ("--level-threshold=31=0.3", "level 31"),
        ("--level-threshold=²=0.3", "²"),
    ],
)
def test_a_threshold_of_a_class_or_level_that_the_store_lacks_is_refused(store, capsys, flag, told):
    assert main(["filter", str(store.path), flag, "--name", "misspelt"]) == 2
    assert told in capsys.readouterr().err
    assert not (store.path / "selections/misspelt.parquet").exists()
