"""generate(): what ends up in the store, what is skipped, what stops a run and what a stop leaves behind."""

from pathlib import Path

import numpy as np
import pytest

from discl.data import load_data
from discl.errors import StoreError
from discl.generation import generate
from discl.hard import select_hard
from discl.plan import make_plan
from discl.recipe import make_recipe
from discl.store import Store, verify
from tests.discl.project import FakeEngine, contents, fake, loaded, make_project, no_engine, runs, without_score

pytestmark = pytest.mark.usefixtures("fake_weights")
PLANNED = 5 * 2 * 2


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


def test_every_planned_sample_has_a_row_that_says_what_was_planned(file):
    config = loaded(file)
    store, table = fake(file), load_data(config.data)
    plan = make_plan(config, table, select_hard(config.hard, table), make_recipe(config))
    rows = {row["key"]: row for row in store.table.to_pylist()}
    assert set(rows) == {planned.key for planned in plan}
    for planned in plan:
        row = rows[planned.key]
        for name in (
            "source_id",
            "source_digest",
            "class_name",
            "class_id",
            "level",
            "seed",
            "noise_seed",
            "prompt",
        ):
            assert row[name] == getattr(planned, name)
        assert row["source_ids"] == list(planned.source_ids)
        assert (row["recipe"], row["retry"], row["control"]) == (plan.recipe_digest, 0, False)
    assert verify(store.path) == []


def test_scores_embeddings_and_margins_are_the_engines(file):
    store = fake(file, "store.format=png")
    embeddings = store.embeddings()
    for row, embedding in zip(store.table.to_pylist(), embeddings, strict=True):
        if row["status"] != "ok":
            assert (row["shard"], row["text_score"], row["margin"], row["reason"]) == (
                None,
                None,
                None,
                "made up",
            )
            continue
        cosines = embedding[:3].astype(np.float32)  # the fake class texts are the first unit vectors
        rival = np.delete(cosines, row["class_id"]).max()
        assert row["margin"] == pytest.approx(cosines[row["class_id"]] - rival, abs=2e-3)
        assert (row["width"], row["height"]) == (24, 16)
        assert store.image(row["key"]).shape == (16, 24, 3)


def test_the_default_selection_is_the_threshold_rule(file):
    store = fake(file, "score.threshold=0.3")
    expected = {
        row["key"] for row in store.table.to_pylist() if row["status"] == "ok" and row["text_score"] >= np.float32(0.3)
    }
    assert set(store.selection("default")) == expected
    assert 0 < len(expected) < PLANNED
    assert store.selection_rule("default")["threshold"]["default"] == 0.3


def test_a_second_run_makes_nothing_and_another_threshold_selects_anew(file):
    store = fake(file, "score.threshold=0.3")
    before, strict = contents(store), set(store.selection("default"))
    again = fake(file, "score.threshold=0.2", make=no_engine)
    assert contents(again) == before
    assert set(again.selection("default")) > strict
    assert len(runs(again)) == 1


def test_more_seeds_extend_the_store(file):
    first = contents(fake(file))
    second = contents(fake(file, "spectrum.seeds=3"))
    assert len(second) == PLANNED * 3 // 2
    assert first.items() <= second.items()


@pytest.mark.parametrize("seed", range(3))
def test_a_stop_at_any_sample_continues_to_the_same_store(file, seed):
    whole = contents(fake(file, "store.path=whole"))
    random = np.random.default_rng(seed)
    stops = 0
    for _ in range(20):
        left = int(random.integers(1, 8))

        def stop(event):
            nonlocal left
            left -= event["event"] == "progress" and event["stage"] == "generate"
            if left < 0:
                raise KeyboardInterrupt

        try:
            store = fake(file, on_event=stop)
            break
        except KeyboardInterrupt:
            stops += 1
            assert verify(loaded(file).store.path) == []
    assert stops > 1
    assert contents(store) == whole
    assert verify(store.path) == []
    statuses = [run["status"] for run in runs(store)]  # a stop at the very last sample leaves nothing to do
    assert statuses in (["stopped"] * stops + ["done"], ["stopped"] * stops)


def test_a_failure_of_the_engine_seals_what_is_there(file):
    class Breaks(FakeEngine):
        def run(self, requests):
            for number, sample in enumerate(super().run(requests)):
                if number == 7:
                    raise RuntimeError("the device is gone")
                yield sample

    with pytest.raises(RuntimeError, match="device is gone"):
        fake(file, make=Breaks)
    store = Store(loaded(file).store.path)
    assert 0 < len(store) <= 7
    assert runs(store)[0]["status"] == "failed"
    assert len(fake(file)) == PLANNED


def test_the_run_record_tells_what_was_done(file):
    (run,) = runs(fake(file, "budget.usd_per_hour=3600"))
    assert run["status"] == "done"
    assert run["counts"]["ok"] + run["counts"]["nan"] == run["counts"]["planned"] == PLANNED
    assert run["counts"]["accepted"] == run["counts"]["ok"]
    assert run["config"]["spectrum"]["steps"] == 4
    assert run["usd"] == pytest.approx(run["seconds"]["generate"])
    assert {"torch", "diffusers", "python"} <= set(run["versions"])
    assert (run["slots"], run["scorer"]["digest"]) == (3, "5" * 32)


def test_a_resumed_run_keeps_its_slots(file):
    asked = []

    class Asked(FakeEngine):
        def __init__(self, config, slots):
            asked.append(slots)
            super().__init__(config, slots)

    fake(file, "engine.slots=auto", make=Asked)
    fake(file, "engine.slots=auto", "spectrum.seeds=3", make=Asked)
    fake(file, "engine.slots=7", "spectrum.seeds=4", make=Asked)
    assert asked == ["auto", 5, 7]


def test_another_recipe_is_added_and_the_selection_is_the_configs_own(file, caplog):
    first = fake(file)
    kept = set(first.selection("default"))
    second = fake(file, "spectrum.steps=6")
    recipes = {row["key"]: row["recipe"] for row in second.table.to_pylist()}
    assert len(second) == 2 * PLANNED
    rule = second.selection_rule("default")
    assert {recipes[key] for key in second.selection("default")} == {rule["recipe"]}
    (left_out,) = rule["left_out"].items()
    assert left_out == (recipes[min(kept)], len(kept)) and left_out[0] != rule["recipe"]
    assert f"leaves out {len(kept)} accepted samples of other recipes" in caplog.text
    assert set(fake(file, make=no_engine).selection("default")) == kept


def test_without_score_nothing_is_scored_and_good_images_are_selected(file):
    rows = fake(without_score(file)).table.to_pylist()
    assert all(row["text_score"] is None and row["margin"] is None for row in rows)
    good = {row["key"] for row in rows if row["status"] == "ok"}
    assert set(Store(loaded(file).store.path).selection("default")) == good


@pytest.mark.parametrize("keep", ["all", "accepted", "scores"])
def test_keep_decides_which_images_are_kept(file, keep):
    store = fake(file, f"store.keep={keep}", "score.threshold=0.3")
    for row in store.table.to_pylist():
        good = row["status"] == "ok"
        accepted = good and row["text_score"] >= np.float32(0.3)
        kept = {"all": good, "accepted": accepted, "scores": False}[keep]
        assert (row["shard"] is not None) == kept
    assert len(store) == PLANNED


def test_a_lower_threshold_after_images_were_thrown_away_is_refused(file):
    fake(file, "store.keep=accepted", "score.threshold=0.3")
    with pytest.raises(StoreError, match="have no image"):
        fake(file, "store.keep=accepted", "score.threshold=0.2", make=no_engine)


@pytest.mark.parametrize("keep", ["all", "accepted"])
def test_images_for_a_store_of_scores_are_refused_before_anything_is_made(file, keep):
    before = contents(fake(file, "store.keep=scores"))
    with pytest.raises(StoreError, match="have no image in this store"):
        fake(file, f"store.keep={keep}", "spectrum.seeds=3", make=no_engine)
    assert contents(Store(loaded(file).store.path)) == before
    assert len(fake(file, "store.keep=scores", "spectrum.seeds=3")) == PLANNED * 3 // 2


def test_user_columns_pass_through(file, tmp_path):
    rows = [f"data/red fox/{i}.png,0,red fox,CC0,{1.5 * i}" for i in range(3)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,class_name,license,latitude", *rows]))
    store = fake(file, "data.kind=csv", "data.root=table.csv")
    found = {(row["source_id"], row["license"], row["latitude"]) for row in store.table.to_pylist()}
    assert found == {(f"data/red fox/{i}.png", "CC0", str(1.5 * i)) for i in range(3)}


def test_the_real_engine_fills_the_store(file):
    store = generate(loaded(file))
    rows = store.table.to_pylist()
    assert len(rows) == PLANNED
    assert {row["status"] for row in rows} == {"ok"}
    assert all(-1 <= row["text_score"] <= 1 and -1 <= row["image_score"] <= 1 for row in rows)
    assert {store.image(row["key"]).shape for row in rows} == {(32, 32, 3)}
    (run,) = runs(store)
    config = loaded(file)
    table = load_data(config.data)
    plan = make_plan(config, table, select_hard(config.hard, table), make_recipe(config))
    assert run["unet_evaluations"] == plan.unet_evaluations
