"""The demo on its shipped models, cut short: every stage, the files it leaves, and what a second run skips."""

import json

import pytest

from discl.config import parse_config
from discl.data import load_data
from discl.demo import run
from discl.hard import select_hard
from discl.plan import make_plan
from discl.recipe import make_recipe
from discl.rejection import calibration_subset
from discl.store import Store

SHORT = [
    "spectrum.levels=[0, 50]", "spectrum.seeds=1", "spectrum.steps=4", "score.threshold=-1.0",
    "curriculum.epochs=3", "curriculum.curriculum_epochs=2", "curriculum.nontail_share=0.2",
]  # fmt: skip
METHODS = [
    "ce", "ce-resampled", "text-only", "fixed-0", "fixed-50", "all-level", "specific-to-diverse",
    "diverse-to-specific", "bs", "bs-diverse-to-specific",
]  # fmt: skip


def short_config(out, overrides=None):
    """The demo's config with less of everything."""
    text, folder = run.files("discl.demo") / "digits.toml", run.files("discl.demo")
    folders = {"store.path": str(out / "spectrum"), "data.root": str(out / "data"), **(overrides or {})}
    values = [f"{key}={json.dumps(value)}" for key, value in folders.items()]
    return parse_config(text.read_text(), folder, overrides=[*SHORT, *values])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """One short demo: its folder, its report, its events."""
    out, events = tmp_path_factory.mktemp("demo"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "demo_config", short_config)
        patch.setattr(run, "SEEDS", 2)
        yield out, run.run_demo(out, on_event=events.append), events


def test_every_stage_leaves_its_files(first):
    out, report, _ = first
    assert report == out / "report.html" and report.stat().st_size < 5_000_000
    assert {"config.toml", "early-rejection.toml", "data", "metrics.json", "report.html", "spectrum"} <= {
        p.name for p in out.iterdir()
    }
    assert len(Store(out / "spectrum")) == 23 * 2


def test_the_result_table_has_every_method_at_equal_steps(first):
    metrics = json.loads((first[0] / "metrics.json").read_text())
    assert list(metrics["methods"]) == METHODS
    for groups in metrics["methods"].values():
        assert set(groups) == {"overall", "many", "medium", "few", "macro_f1"}
        assert all(0 <= value["mean"] <= 1 for value in groups.values())
    assert {training["steps"] for training in metrics["trainings"]} == {metrics["steps"]}
    assert metrics["methods"]["text-only"] == metrics["methods"]["fixed-0"]


def test_progress_is_told_for_generation_and_training(first):
    last = {event["stage"]: event for event in first[2] if event["event"] == "progress"}
    done = {stage: event["done"] for stage, event in last.items()}
    assert done == {"load model": 1, "generate": 46, "train": 2 * len(METHODS)}


def test_a_second_run_makes_nothing_again_and_the_same_page(first):
    out, report, _ = first
    before, events = report.read_bytes(), []
    files = {path: path.stat().st_mtime_ns for path in (out / "spectrum" / "shards").iterdir()}
    assert run.run_demo(out, on_event=events.append).read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (out / "spectrum" / "shards").iterdir()} == files
    assert events == []


def test_the_config_for_early_rejection_plans_enough_to_calibrate(tmp_path):
    early = run.demo_config(tmp_path, run.EARLY_REJECTION)
    table = load_data(early.data)
    plan = make_plan(early, table, select_hard(early.hard, table), make_recipe(early))
    subset = calibration_subset(plan, early.engine.false_reject_limit)
    assert early.engine.early_rejection and all((subset.distil, subset.fit, subset.held))


def test_the_shipped_config_is_whole(tmp_path):
    config = run.demo_config(tmp_path)
    assert config.store.path == str(tmp_path / "spectrum") and config.data.root == str(tmp_path / "data")
    assert config.score is not None and 0 in config.spectrum.levels
