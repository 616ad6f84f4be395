"""What a probe's record says of the whole run: against runs played by the engine's own scheduler at made-up speeds."""

import json
import math
import random
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from discl.attempts import Attempts
from discl.cli import main
from discl.config import BudgetConfig
from discl.engine.reproducible import stable_rows
from discl.engine.scheduler import Scheduler
from discl.generation import generate
from discl.level_work import LevelWork
from discl.pace import Pace, seconds_per_row, span, unsteadiness
from discl.planning.estimate import estimate
from discl.planning.history import measured, seconds_of
from discl.store import Store
from tests.discl.project import loaded, make_project

LEVELS, SEEDS = (0, 10, 30, 50), 12
STEPS = {level: 20 * (100 - level) // 100 for level in LEVELS}


class Plan:
    """What planning reads of a plan of so many sources."""

    recipe_digest = "r"
    attempts = Attempts()
    spectrum = SimpleNamespace(levels=LEVELS, seeds=tuple(range(SEEDS)))
    per_source = len(LEVELS) * SEEDS
    work = MappingProxyType({level: LevelWork(count, 2 * count) for level, count in STEPS.items()})

    def __init__(self, sources: int):
        self.sources = range(sources)


def played(plan: Plan, slots: int, speed: dict[str, float], workers: int = 1) -> dict:
    """The record of a run whose steps are those of the engine's scheduler."""
    steps = evaluations = 0
    rows = 2 * stable_rows(slots, 2)
    for worker in range(workers):
        scheduler = Scheduler(slots, shape=lambda bucket: (rows, rows))
        mine = plan.sources[worker::workers]
        due = iter([level for _ in mine for _ in range(SEEDS) for level in LEVELS])
        while True:
            while scheduler.wants_more:
                level = next(due, None)
                if level is None:
                    scheduler.close()
                else:
                    scheduler.add((level, random.random()), "one", [2] * plan.work[level].steps)
            step = scheduler.next_step()
            if step is None:
                break
            evaluations += sum(active.rows for active in step.active)
            scheduler.advance(step)
            steps += 1
    images = len(plan.sources) * plan.per_source
    seconds = {
        "load": workers * speed["load"],
        "engine.unet": steps * rows * speed["row"] + workers * speed["warm-up"],
        "engine.unet.warm-up": workers * speed["warm-up"],
        "engine.decode": images * speed["image"],
        "engine.encode": len(plan.sources) * speed["source"],
    }
    spent = sum(seconds[f"engine.{stage}"] for stage in ("unet", "decode", "encode"))
    return {
        "recipe_digest": "r",
        "seconds": seconds | {"workers" if workers > 1 else "generate": spent},
        "workers": [{"samples": 1}] * workers if workers > 1 else [],
        "slots": slots,
        "slot_occupancy": evaluations / (steps * rows),
        "unet_evaluations": evaluations,
        "counts": {"ok": images, "retried": 0},
        "levels": {str(level): {"made": images // len(LEVELS), "accepted": 1} for level in LEVELS},
    }


def kept(store, *records: dict):
    for folder in ("runs", "manifest"):
        (store / folder).mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        (store / f"runs/{number}.json").write_text(json.dumps(record))
    return store


@pytest.mark.parametrize("trial", range(8))
def test_a_probe_tells_what_the_run_will_take(tmp_path, trial):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    draw = lambda low, high: low * (high / low) ** chance.random()  # noqa: E731
    speed = {"row": draw(1e-4, 1e-1), "load": draw(1, 100)}
    speed |= {"warm-up": draw(0.1, 300), "image": speed["row"] * draw(0.1, 10), "source": speed["row"] * draw(1, 50)}
    slots, workers = chance.choice((1, 3, 8, 64)), chance.choice((1, 1, 3))
    probe, whole = Plan(8), Plan(chance.randrange(30, 120))
    rates = measured(kept(tmp_path / "probe", played(probe, slots, speed)), probe, "the probe")
    run = played(whole, slots, speed, workers)
    cost = estimate(whole, rates, BudgetConfig(workers=workers))
    assert cost.hours * 3600 == pytest.approx(seconds_of(run), rel=0.03)
    assert cost.evaluations == run["unet_evaluations"] and cost.attempts == run["counts"]["ok"]
    again = measured(kept(tmp_path / "store", run), whole, "the run")
    assert estimate(whole, again, BudgetConfig(workers=workers)).hours * 3600 == pytest.approx(
        seconds_of(run), rel=1e-6
    )


def test_the_span_is_that_of_uneven_stretches(tmp_path):
    plan, marks = Plan(8), [(0.0, 0)]
    for number in range(40):
        marks.append((marks[-1][0] + (1.0 if number % 2 else 3.0), marks[-1][1] + 100))
    speed = {"row": 0.01, "load": 0.0, "warm-up": 0.0, "image": 0.0, "source": 0.0}
    even = played(plan, 8, speed)
    rates = measured(kept(tmp_path, even | {"pace": marks}), plan, "")
    assert rates.unsteady == pytest.approx(unsteadiness([0.03, 0.01] * 20)) and rates.seen == marks[-1][0]
    cost = estimate(plan, rates, BudgetConfig())
    off = 1 + rates.unsteady * (1 + 3600 * cost.hours / marks[-1][0]) ** 0.5
    assert cost.span == pytest.approx((cost.hours / off, cost.hours * off), rel=0.01)
    few = measured(kept(tmp_path, even | {"pace": marks[:3]}), plan, "")
    assert few.unsteady > 1, "two stretches, of 3 s and 1 s"
    alone = measured(kept(tmp_path, even | {"pace": marks[:2]}), plan, "")
    assert alone.unsteady is None and estimate(plan, alone, BudgetConfig()).span is None, "too few to say"


def white(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=count)


def flicker(rng: np.random.Generator, count: int) -> np.ndarray:
    """1/f noise, which drifts at every length."""
    whole = 8 * count
    waves = rng.normal(size=(2, whole // 2)) / np.sqrt(np.arange(1, whole // 2 + 1))
    noise = np.fft.irfft(np.concatenate([[0], waves[0] + 1j * waves[1]]), whole)
    return noise[rng.integers(whole - count) :][:count] / noise.std()


def walk(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=count).cumsum() / 10


@pytest.mark.parametrize("noise", [white, flicker, walk])
@pytest.mark.parametrize(("seen", "coming"), [(4, 20), (6, 20), (20, 60), (8, 400)])
def test_four_runs_of_five_lie_within_the_span(noise, seen, coming):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, within, rounds = np.random.default_rng(seed), 0, 1000
    for _ in range(rounds):
        pace = np.exp(0.08 * noise(rng, seen + coming))
        known, then = pace[:seen].mean(), pace[seen:].mean()
        within += abs(math.log(then / known)) <= math.log1p(span(unsteadiness(pace[:seen]), seen, coming))
    assert within / rounds > 0.8 - 0.04, "0.04 is three standard errors"


def test_unsteadiness_is_that_of_the_length_where_neighbours_differ_most():
    assert unsteadiness([2.0]) is None and unsteadiness([]) is None
    assert unsteadiness([3.0] * 7) == 0
    t = [math.nan, 3.0777, 1.8856, 1.6377]  # Student's, four times of five within, by degrees of freedom
    assert unsteadiness([1.0, 3.0]) == pytest.approx(t[1], rel=1e-4)
    assert unsteadiness([1.0, 3.0, 1.0, 3.0]) == pytest.approx(t[3], rel=1e-4), "by turns"
    assert unsteadiness([1.0, 1.0, 3.0, 3.0]) == pytest.approx(t[1], rel=1e-4), "a step, seen in its halves"
    assert unsteadiness([10.0, 30.0, 50.0]) == pytest.approx(unsteadiness([1.0, 3.0, 5.0])), "whatever the unit"


def test_marks_stay_few_and_evenly_spaced():
    pace = Pace()
    for tick in range(100_000):
        if pace.due(tick / 10):
            pace.note(tick / 10, 3 * tick)
    assert 32 <= len(pace.marks) <= 65
    assert seconds_per_row(pace.marks) == pytest.approx([1 / 30] * (len(pace.marks) - 1))


def test_a_killed_run_has_cost_what_it_last_said():
    assert seconds_of({"seconds": {"load": 2.0}, "progress": {"seconds": 7.0}}) == 9.0
    assert seconds_of({"seconds": {"load": 2.0, "generate": 8.0}, "progress": {"seconds": 7.0}}) == 10.0


def test_plan_and_actual_agree_where_no_clock_is_asked(tmp_path, tiny_models, capsys):
    """Probe, run, plan again, with the engine: images and evaluations exactly, bytes within a tenth."""
    file = make_project(tmp_path, tiny_models, classes={"red fox": 3, "käfer": 3, "common": 6})
    wishes = ["spectrum.seeds=6"]
    settings = [part for wish in wishes for part in ("--set", wish)]
    assert main(["plan", str(file), "--probe", "2", *settings]) == 0
    store = generate(loaded(file, *wishes))
    capsys.readouterr()
    assert main(["plan", str(file), *settings]) == 0
    lines = capsys.readouterr().out.split("planned by        measured: the probe")[1].splitlines()
    errors = {line.split("  ")[0].strip() or line.split()[0]: line.split()[-1] for line in lines if "%" in line}
    percent = {" ".join(name.split()): float(error.strip("%")) for name, error in errors.items()}
    assert len(store) == 6 * 6 * 2
    print(lines)
    assert percent["images"] == percent["UNet evaluations"] == 0.0
    assert abs(percent["bytes per image"]) < 10
    assert len(Store(f"{store.path}.probe")) == 2 * 6 * 2
