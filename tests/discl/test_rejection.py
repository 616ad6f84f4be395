"""`[engine] early_rejection = true`: calibrated from the plan, the same store after any stop, both rates."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from discl import rejection
from discl.engine.rejection import calibration, decoder
from discl.engine.rejection.bound import interval
from discl.errors import ConfigError, StoreError
from discl.generation import generate
from discl.plan import make_plan
from discl.rejection import calibration_subset, is_control, rule_file
from discl.rejection_rates import rejection_rates
from discl.report import report_runs
from discl.selection import select_by_threshold
from discl.store import Store
from tests.discl.project import contents, loaded, make_project, runs, without_score
from tests.tiny import tiny_lcm

WISHES = ["spectrum.levels=[0, 50]", "spectrum.seeds=12", "spectrum.steps=6", "store.shard_mb=0.05"]
REJECTING = ["engine.early_rejection=true", "engine.false_reject_limit=0.8", "engine.control_share=0.2"]
PER_LEVEL = 5 * 12


@pytest.fixture(scope="module", autouse=True)
def small_calibrations():
    """As in a large plan, at sizes that a test can run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rejection, "MOST", 2)
        patch.setattr(calibration, "FEWEST", 2)
        patch.setattr(decoder, "STEPS", 30)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory, tiny_models) -> Path:
    return make_project(tmp_path_factory.mktemp("project"), tiny_models)


@pytest.fixture(scope="module")
def plain(file) -> Store:
    """Everything made to its end."""
    return generate(loaded(file, *WISHES, f"store.path={json.dumps(str(file.parent / 'plain'))}"))


def config(file: Path, plain: Store, name: str, *overrides: str):
    scores = [score for score in plain.table["text_score"].to_pylist() if score is not None]
    threshold = float(np.median(scores))
    place = f"store.path={json.dumps(str(file.parent / name))}"
    return loaded(file, *WISHES, *REJECTING, f"score.threshold={threshold}", place, *overrides)


@pytest.fixture(scope="module")
def whole(file, plain) -> Store:
    return generate(config(file, plain, "whole"))


def rows(store: Store) -> dict[str, dict]:
    """Key -> what a sample is, without who made it and where it lies."""
    names = set(store.table.column_names) - {"run_id", "created_at", "shard", "offset", "length", "crc32c"}
    return {row["key"]: row for row in store.table.select(sorted(names)).to_pylist()}


def rule_of(store: Store) -> dict:
    (file,) = (Path(store.path) / "rejection").glob("*.json")
    return json.loads(file.read_text())


def test_some_are_given_up_and_never_a_control_or_a_calibrating_one(whole):
    found, calibrated = rows(whole), set(rule_of(whole)["calibration_keys"])
    assert len(found) == 2 * PER_LEVEL
    gone = {key for key, row in found.items() if row["status"] == "rejected-early"}
    assert len(gone) > 5
    assert {row["status"] for row in found.values()} == {"ok", "rejected-early"}
    assert not gone & calibrated
    for key, row in found.items():
        assert row["control"] == is_control(key, 0.2)
        assert (row["rejected_at"] is not None) >= (key in gone)
        if key in gone:
            assert not row["control"] and row["text_score"] is None and row["width"] is None
            assert f"step {row['rejected_at']} of" in row["reason"]
        elif row["rejected_at"] is not None:
            assert row["control"] and row["reason"].startswith("control, would have been given up at step")
    controls = [key for key, row in found.items() if row["control"]]
    assert 5 < len(controls) < 50 and not calibrated & set(controls)


def test_steps_of_a_model_that_is_told_the_guidance_cost_one_row(file, plain, monkeypatch):
    """An LCM has no unconditional row, whatever the text guidance; the demo's model has one."""
    rows = []

    class Noting(calibration.Search):
        def __init__(self, fit, prior, limit, rows_per_step, look_cost):
            rows.append(rows_per_step)
            super().__init__(fit, prior, limit, rows_per_step, look_cost)

    monkeypatch.setattr(calibration, "Search", Noting)
    lcm = f"model.path={json.dumps(str(tiny_lcm(file.parent / 'lcm')))}"
    for model, expected in (([], 2.0), ([lcm, "spectrum.solver=lcm"], 1.0)):
        given = config(file, plain, f"rows-{expected}", "spectrum.text_guidance=7.5", *model)
        generate(given)
        assert rows and set(rows) == {expected}
        rows.clear()


def test_those_who_stay_have_the_pixels_of_a_run_without_rejection(whole, plain):
    """Keys differ, since the rule is in the recipe; source, level and seed name the same image."""
    place = lambda row: (row["source_id"], row["level"], row["seed"])  # noqa: E731
    images = {place(row): plain.read(key) for key, row in rows(plain).items()}
    kept = [(key, row) for key, row in rows(whole).items() if row["status"] == "ok"]
    assert kept and all(whole.read(key) == images[place(row)] for key, row in kept)


class Stopped(Exception):
    pass


def stop_and_go_on(given, stops: list[int]) -> Store:
    """Runs that end after so many samples each, then one to the end."""
    for stop in stops:
        made = 0

        def on_event(event, stop=stop):
            nonlocal made
            made += event.get("stage") == "generate"
            if made >= stop:
                raise Stopped

        with pytest.raises(Stopped):
            generate(given, on_event)
    return generate(given)


def same(one: Store, other: Store) -> None:
    assert rows(one) == rows(other)
    assert contents(one) == contents(other)
    assert rule_of(one) == rule_of(other)
    assert set(one.selection("default")) == set(other.selection("default"))


@pytest.mark.parametrize("stops", [[3, 20], [31, 30, 20], [110]])
def test_stopped_anywhere_it_ends_with_the_same_store(file, plain, whole, stops):
    """In the calibration (half of the plan), or after it."""
    same(stop_and_go_on(config(file, plain, f"stopped-{stops[0]}"), stops), whole)


def test_with_retries_too(file, plain):
    """What is given up is tried again, as what is rejected at its end."""
    asked = "spectrum.seeds=8", "spectrum.retries=2"
    unbroken = generate(config(file, plain, "retried", *asked))
    found = rows(unbroken)
    tried = {row["attempt_of"] for row in found.values()}
    assert any(row["status"] == "rejected-early" and key in tried for key, row in found.items())
    same(stop_and_go_on(config(file, plain, "retried-stopped", *asked), [25, 40, 30]), unbroken)


def test_a_finished_run_makes_nothing_again(file, plain, whole):
    def no_engine(config, slots):
        raise AssertionError("nothing is missing")

    before = rows(whole)
    assert rows(generate(config(file, plain, "whole"), make=no_engine)) == before


def test_a_rule_that_is_there_decides_also_for_other_plans(file, plain, whole):
    """Fewer seeds: nobody calibrates, everybody but the controls is judged by the rule that is there."""
    given = config(file, plain, "fewer", "spectrum.seeds=4")
    rule = rule_file(given.store.path, whole.table["recipe"][0].as_py())
    rule.parent.mkdir(parents=True)
    rule.write_text(json.dumps(rule_of(whole)))
    fewer, all_seeds, calibrated = rows(generate(given)), rows(whole), set(rule_of(whole)["calibration_keys"])
    assert fewer.keys() < all_seeds.keys()
    for key in fewer.keys() - calibrated:
        assert fewer[key] == all_seeds[key]


def test_a_threshold_below_the_rules_is_refused_and_a_higher_one_is_not(file, plain, whole):
    given = config(file, plain, "whole")
    lower = config(file, plain, "whole", "score.threshold=-1.0")
    with pytest.raises(StoreError, match=r"threshold -1 for class .* is below -?\d.*early rejection.*raise it"):
        generate(lower)
    recipe = whole.table["recipe"][0].as_py()
    with pytest.raises(StoreError, match="early rejection"):
        select_by_threshold(whole, lower.score, "all", recipe, "lower")
    finished = [key for key, row in rows(whole).items() if row["status"] == "ok"]
    assert sorted(select_by_threshold(whole, lower.score, "all", recipe, "lower", below_rule=True)) == sorted(finished)
    accepted = whole.selection("default")
    higher = config(file, plain, "whole", f"score.threshold={given.score.threshold.default + 0.001}")
    assert set(select_by_threshold(whole, higher.score, "all", recipe, "higher")) < set(accepted)


def test_a_plan_that_is_too_small_rejects_nothing_and_says_so(file, plain, caplog):
    store = generate(config(file, plain, "small", "spectrum.seeds=2", "engine.false_reject_limit=0.02"))
    assert {row["status"] for row in rows(store).values()} == {"ok"}
    assert "nothing is rejected early" in caplog.text
    assert not (Path(store.path) / "rejection").exists()


def test_early_rejection_needs_scores(file):
    with pytest.raises(ConfigError, match=r"early_rejection.*\[score\]"):
        generate(loaded(without_score(file), "engine.early_rejection=true"))


def test_who_calibrates_follows_from_the_keys(file, plain):
    from discl.data import load_data
    from discl.hard import select_hard
    from discl.recipe import make_recipe

    given = config(file, plain, "whole")
    table = load_data(given.data)
    plan = make_plan(given, table, select_hard(given.hard, table), make_recipe(given))
    subset = calibration_subset(plan, 0.8)
    by_key = {each.key: each for each in plan}
    assert not subset.fit & subset.held and not subset.distil & subset.traced
    for part in (subset.fit, subset.held, subset.distil):
        levels = [by_key[key].level for key in part]
        assert levels.count(0) == levels.count(50) > 0
        assert not any(by_key[key].control for key in part)
    assert calibration_subset(plan, 0.8) == subset
    assert len(subset.distil | subset.traced) == PER_LEVEL // 2 * 2


def test_both_rates_by_level_as_a_count_by_hand(file, plain, whole):
    recipe, threshold = whole.table["recipe"][0].as_py(), config(file, plain, "whole").score.threshold.default
    calibrated = set(rule_of(whole)["calibration_keys"])
    rates = rejection_rates(whole, recipe)
    assert [each.level for each in rates] == [0, 50]
    for each in rates:
        mine = [row for row in rows(whole).values() if row["level"] == each.level and row["key"] not in calibrated]
        controls = [row for row in mine if row["control"]]
        good = [row for row in controls if np.float32(row["text_score"]) >= np.float32(threshold)]
        false = [row for row in good if row["rejected_at"] is not None]
        assert (each.control, each.accepted, each.false) == (len(controls), len(good), len(false))
        assert each.judged == len(mine) - len(controls)
        assert each.rejected == sum(row["status"] == "rejected-early" for row in mine)
        assert each.interval == (interval(len(false), len(good)) if good else (0.0, 1.0))
        assert each.calibration + each.control + each.judged == PER_LEVEL


def test_the_runs_record_and_the_report_show_both_rates(whole):
    record = runs(whole)[-1]
    assert [each["level"] for each in record["rejection"]] == [0, 50]
    assert record["rejection"] == [each.to_json() for each in rejection_rates(whole, record["recipe_digest"])]
    page = report_runs([whole.path]).read_text()
    assert 'id="rejection"' in page and "false-reject" in page
    rates = rejection_rates(whole, record["recipe_digest"])
    row = re.search(r'<tfoot><tr><th scope="row">all</th>(.*?)</tr></tfoot>', page.split('id="rejection"')[1])[1]
    cells = re.findall("<td>(.*?)</td>", row)
    rejected, judged, false, accepted, steps = (
        sum(getattr(each, name) for each in rates)
        for name in ("rejected", "judged", "false", "accepted", "steps_saved")
    )
    low, high = interval(false, accepted)
    assert cells == [
        f"{rejected / judged:.1%} ({rejected:,} of {judged:,})",
        f"{steps / sum(each.judged * each.steps for each in rates):.1%}",
        f"{accepted:,} of {sum(each.control for each in rates):,}",
        f"{false / accepted:.1%} ({false} of {accepted})",
        f"{low:.1%} to {high:.1%}",
        "80.0%",
    ]
    assert page.split('id="rejection"')[1].count("<td>100.0%</td>") >= len(rates), "a level may have twice as much"


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.05, 350, 650), (1.0, 10_000, 10_000)])
def test_controls_are_a_share_of_the_keys(share, low, high):
    assert low <= sum(is_control(f"{number:032x}", share) for number in range(10_000)) <= high


def test_the_recipe_has_the_rule_and_not_the_threshold(file):
    from discl.recipe import recipe_of

    recipe = lambda *overrides: recipe_of(loaded(file, *overrides), "0" * 32)["rejection"]  # noqa: E731
    assert recipe() is None
    assert recipe("engine.early_rejection=true") == {"false_reject_limit": 0.02, "control_share": 0.05}
    assert recipe("engine.early_rejection=true", "score.threshold=0.9") == recipe("engine.early_rejection=true")
