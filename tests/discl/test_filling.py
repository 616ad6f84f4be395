"""`[spectrum] fill`: which further seeds are made, against a plain loop on the same scores, also after kills."""

from pathlib import Path

import numpy as np
import pytest

from discl.cli import main
from discl.config.values import first_seeds
from discl.data import load_data
from discl.hard import select_hard
from discl.plan import make_plan
from discl.recipe import make_recipe
from discl.store import verify
from tests.discl.project import FakeEngine, contents, fake, loaded, make_project, no_engine

pytestmark = pytest.mark.usefixtures("fake_weights")
THRESHOLD = 0.4  # the fake engine accepts about one in five


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


def settings(fill: int, limit: int, *more: str) -> list[str]:
    return [f"spectrum.fill={fill}", f"spectrum.fill_seeds={limit}", f"score.threshold={THRESHOLD}", *more]


def expected(file: Path, fill: int, limit: int) -> set[str]:
    """Two seeds of everything; then, by (source, level), as many more as lack, until none does or all are tried."""
    config = loaded(file, f"spectrum.seeds={list(first_seeds(2 + limit))}")
    table = load_data(config.data)
    plan = make_plan(config, table, select_hard(config.hard, table), make_recipe(config))
    engine = FakeEngine(config, 1)

    def accepted(planned) -> bool:
        sample = engine.sample(type("Wished", (), {"key": planned.key})())
        return sample.status == "ok" and np.float32(sample.text_score) >= np.float32(THRESHOLD)

    made = set()
    for source in plan.sources:
        for level in plan.spectrum.levels:
            wishes = [each for each in plan.samples_of(source) if each.level == level]
            tried = wishes[:2]
            while (lack := fill - sum(map(accepted, tried))) > 0 and len(tried) < len(wishes):
                tried = wishes[: len(tried) + lack]
            made |= {each.key for each in tried}
    return made


@pytest.mark.parametrize(("fill", "limit"), [(1, 4), (3, 1)])
def test_holes_get_more_seeds_and_nothing_else_does(file, fill, limit):
    store = fake(file, *settings(fill, limit))
    wanted = expected(file, fill, limit)
    assert set(store.keys()) == wanted
    assert 20 < len(wanted) <= 10 * (2 + limit)
    assert not list(verify(store.path))
    fake(file, *settings(fill, limit), make=no_engine)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [5, 21, 27])
def test_a_stopped_run_goes_on_to_the_same_store(file, after):
    seen = 0

    def stop(event) -> None:
        nonlocal seen
        seen += event.get("event") == "progress" and event["done"] > 0
        if seen > after:
            raise Stopped

    with pytest.raises(Stopped):
        fake(file, *settings(2, 6), on_event=stop)
    store = fake(file, *settings(2, 6))
    whole = fake(file, *settings(2, 6, f"store.path={file.with_name('whole')}"))
    assert contents(store) == contents(whole)
    assert store.selection("default") == whole.selection("default")


def test_without_fill_no_further_seed_is_made(file):
    assert len(fake(file, f"score.threshold={THRESHOLD}")) == 20


def test_retries_belong_to_further_seeds_too(file):
    store = fake(file, *settings(3, 3, "spectrum.retries=1"))
    rows = store.table.select(["seed", "retry"]).to_pylist()
    assert any(row["retry"] for row in rows if row["seed"] not in first_seeds(2))
    assert len(rows) == len({*store.keys()})
    fake(file, *settings(3, 3, "spectrum.retries=1"), make=no_engine)


def test_the_plan_names_it_and_nonsense_is_refused(file, capfd):
    assert main(["plan", str(file), "--set", "spectrum.fill=2"]) == 0
    assert "at most 16 more seeds" in capfd.readouterr().out
    assert main(["plan", str(file), "--set", 'spectrum.fill="some"']) == 2
