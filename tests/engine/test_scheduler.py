"""Torch-free laws: everything finishes once, no row idles while work waits, rows stay full, also at the end."""

import math
import random

import pytest

from discl.engine.scheduler import Active, Scheduler


class Simulation:
    """Runs works (name, bucket, rows of each step) as the engine does, and asserts the laws at each step."""

    def __init__(self, scheduler: Scheduler, works: list[tuple[int, str, list[int]]]):
        self.scheduler, self.feed, self.exhausted = scheduler, iter(works), False
        self.given: dict[int, list] = {}  # name -> bucket, rows, steps done
        self.finished: list[int] = []
        self.idle_rows = 0

    def run(self) -> "Simulation":
        while (step := self.turn()) is not None:
            self.finished += [name for _, name in self.scheduler.advance(step)]
        assert self.exhausted and not self.scheduler.busy
        for name, (_, rows, done) in self.given.items():
            assert done == len(rows), f"{name} got {done} of {len(rows)} steps"
        return self

    def turn(self):
        self.read()
        full = self.scheduler.full
        step = self.scheduler.next_step()
        if step is None:
            assert not full
            return None
        bucket = self.scheduler.buckets[step.bucket]
        used = sum(active.rows for active in step.active)
        idle = bucket.rows - used
        assert 0 <= idle < 2 if full else idle > 0
        assert len({active.place for active in step.active}) == len(step.active)
        if not self.exhausted:
            assert not any(item.cost <= idle for item in bucket.waiting) or not bucket.free
        for active in step.active:
            home, rows, done = self.given[bucket.running[active.place].work]
            assert home == step.bucket
            assert rows[done] == active.rows
            self.given[bucket.running[active.place].work][2] += 1
        self.idle_rows += idle
        return step

    def read(self) -> None:
        while not self.scheduler.closed and self.scheduler.waiting < self.scheduler.window:
            work = next(self.feed, None)
            if work is None:
                self.exhausted = True
                self.scheduler.close()
                return
            name, bucket, rows = work
            self.given[name] = [bucket, rows, 0]
            self.scheduler.add(name, bucket, rows)


def mixed(count: int, buckets: list[str], seed: int, guided=False) -> list[tuple[int, str, list[int]]]:
    """Trajectories of the paper's levels; `guided`: each step takes one row or two."""
    rng = random.Random(seed)
    lengths = [rng.choice([50, 45, 35, 25, 5]) for _ in range(count)]
    return [
        (i, rng.choice(buckets), [rng.choice([1, 2]) if guided else 1 for _ in range(length)])
        for i, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("buckets", [["a"], ["a", "b", "c"]], ids=len)
def test_every_work_finishes_exactly_once(seed, slots, buckets):
    works = mixed(200, buckets, seed)
    assert sorted(Simulation(Scheduler(slots), works).run().finished) == [name for name, *_ in works]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slots", [2, 7, 16])
def test_works_of_one_and_two_rows_share_the_steps(seed, slots):
    works = mixed(200, ["a", "b"], seed, guided=True)
    scheduler = Scheduler(slots, shape=lambda bucket: (2 * (slots // 2), 2 * slots))
    assert sorted(Simulation(scheduler, works).run().finished) == [name for name, *_ in works]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("buckets", [["a"], ["a", "b"]], ids=len)
@pytest.mark.parametrize("guided", [False, True])
def test_occupancy_on_a_thousand_mixed_requests(seed, buckets, guided):
    simulation = Simulation(Scheduler(16), mixed(1000, buckets, seed, guided)).run()
    share = simulation.idle_rows / (16 * simulation.scheduler.steps)
    assert share <= (0.02 if guided or len(buckets) > 1 else 0.005)


@pytest.mark.parametrize("seed", range(20))
def test_a_run_ends_as_soon_as_any_schedule_could(seed):
    """With all works known and no more than there are places: max(longest work, all steps / slots), rounded up."""
    rng = random.Random(seed)
    slots = rng.choice([2, 5, 16])
    lengths = [rng.randint(1, 50) for _ in range(rng.randint(1, 2 * slots))]
    works = [(i, "a", [1] * length) for i, length in enumerate(lengths)]
    simulation = Simulation(Scheduler(slots, window=100), works)
    for name, bucket, rows in works:
        simulation.given[name] = [bucket, rows, 0]
        simulation.scheduler.add(name, bucket, rows)
    simulation.feed = iter(())
    simulation.scheduler.close()
    simulation.exhausted = True
    simulation.run()
    assert simulation.scheduler.steps == max(max(lengths), math.ceil(sum(lengths) / slots)), f"seed {seed}"


def test_a_freed_slot_is_refilled_at_the_next_step():
    scheduler = Scheduler(2)
    for name, steps in [("a", 1), ("b", 3), ("c", 2)]:
        scheduler.add(name, "x", [1] * steps)
    first = scheduler.next_step()
    assert first.admitted == [(0, "a"), (1, "b")]
    assert scheduler.advance(first) == [(0, "a")]
    second = scheduler.next_step()
    assert second.admitted == [(0, "c")]
    assert scheduler.advance(second) == []
    third = scheduler.next_step()
    assert sorted(scheduler.advance(third)) == [(0, "c"), (1, "b")]
    assert scheduler.next_step() is None


def test_the_oldest_goes_first_and_who_does_not_fit_waits_untouched():
    scheduler = Scheduler(3, shape=lambda bucket: (3, 6))
    scheduler.add("a", "x", [1, 2])
    scheduler.add("b", "x", [2, 2])
    assert scheduler.next_step().active == [Active(0, 1), Active(1, 2)]
    scheduler.advance(scheduler.next_step())
    scheduler.add("c", "x", [1])
    step = scheduler.next_step()
    assert step.active == [Active(0, 2), Active(2, 1)]  # b needs two rows and one is left: c takes it
    assert scheduler.buckets["x"].running[1].done == 1


def test_the_window_bounds_what_is_read_ahead():
    scheduler = Scheduler(4, window=6)
    for i in range(100):
        if not scheduler.wants_more:
            break
        scheduler.add(i, bucket=i, rows=[1])  # every work of another kind: no bucket can ever fill
    assert scheduler.waiting == 6


def test_a_rare_kind_is_not_parked_for_ever():
    scheduler = Scheduler(2, patience=30)
    scheduler.add("rare", "rare", [1, 1])
    finished: list = []
    for i in range(200):
        while scheduler.wants_more:
            scheduler.add((i, scheduler.waiting), "common", [1] * 5)
        step = scheduler.next_step()
        finished += [name for _, name in scheduler.advance(step)]
        if "rare" in finished:
            break
    assert "rare" in finished and i < 50


def test_a_dropped_place_is_free_again():
    scheduler = Scheduler(1)
    scheduler.add("a", "x", [1] * 9)
    scheduler.add("b", "x", [1])
    scheduler.advance(scheduler.next_step())
    assert scheduler.drop("x", 0) == "a"
    step = scheduler.next_step()
    assert step.admitted[0][1] == "b"
    assert [name for _, name in scheduler.advance(step)] == ["b"]
    assert not scheduler.busy


def test_paused_and_held_works_fill_no_rows():
    scheduler = Scheduler(2)
    for name in "abc":
        scheduler.add(name, "x", [1] * 9)
    assert scheduler.full
    scheduler.advance(scheduler.next_step())
    scheduler.pause("x", 0)
    assert scheduler.full  # with the one that waits
    scheduler.holding = True
    assert not scheduler.full and len(scheduler.next_step().active) == 1
    scheduler.pause("x", 0, paused=False)
    scheduler.holding = False
    assert scheduler.full and len(scheduler.next_step().active) == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_restart_loses_and_repeats_nothing(seed):
    rng = random.Random(seed)
    works = mixed(60, ["a", "b"], seed)
    simulation = Simulation(Scheduler(8), works)
    while (step := simulation.turn()) is not None:
        simulation.finished += [name for _, name in simulation.scheduler.advance(step)]
        if rng.random() < 0.02:
            simulation.scheduler.restart(lambda bucket: (4, 8))
            for name in set(simulation.given) - set(simulation.finished):
                simulation.given[name][2] = 0
    assert sorted(simulation.finished) == [name for name, *_ in works], f"seed {seed}"


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="slots=0"):
        Scheduler(0)
    with pytest.raises(ValueError, match="asks for no steps"):
        Scheduler(1).add("a", "x", [])
