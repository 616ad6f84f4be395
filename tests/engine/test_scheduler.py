"""Torch-free laws: everything finishes once, no slot idles while work waits, slots stay full."""

import random

import pytest

from discl.engine.scheduler import Scheduler


def simulate(scheduler: Scheduler, works: list[tuple[int, str, int]]):
    """Run all works as the engine does; returns finish order, and asserts the idle law at each step."""
    feed = iter(works)
    steps_given = {}
    finished = []
    exhausted = False
    while True:
        while scheduler.wants_more:
            work = next(feed, None)
            if work is None:
                exhausted = True
                scheduler.close()
                break
            name, bucket, steps = work
            steps_given[name] = [bucket, steps, 0]
            scheduler.add(name, bucket, steps)
        step = scheduler.next_step()
        if step is None:
            break
        bucket = scheduler.buckets[step.bucket]
        assert step.active == scheduler.slots or not bucket.waiting, "a slot idles while work of its kind waits"
        if step.active < scheduler.slots and not exhausted:
            assert scheduler.waiting >= scheduler.window, "a slot idles although more work could be read"
        for name in bucket.running:
            if name is not None:
                assert steps_given[name][0] == step.bucket
                steps_given[name][2] += 1
        finished += [name for _, name in scheduler.advance(step.bucket)]
    assert exhausted
    for name, (_, wanted, got) in steps_given.items():
        assert got == wanted, f"{name} got {got} of {wanted} steps"
    return finished


def mixed(count: int, buckets: list[str], seed: int) -> list[tuple[int, str, int]]:
    rng = random.Random(seed)
    return [(i, rng.choice(buckets), rng.choice([50, 45, 35, 25, 5])) for i in range(count)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("buckets", [["a"], ["a", "b", "c"]], ids=len)
def test_every_work_finishes_exactly_once(seed, slots, buckets):
    works = mixed(200, buckets, seed)
    finished = simulate(Scheduler(slots), works)
    assert sorted(finished) == [name for name, _, _ in works]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("buckets", [["a"], ["a", "b"]], ids=len)
def test_occupancy_on_a_thousand_mixed_requests(seed, buckets):
    scheduler = Scheduler(16)
    simulate(scheduler, mixed(1000, buckets, seed))
    assert scheduler.occupancy >= 0.95


def test_a_freed_slot_is_refilled_at_the_next_step():
    scheduler = Scheduler(2)
    for name, steps in [("a", 1), ("b", 3), ("c", 2)]:
        scheduler.add(name, "x", steps)
    assert scheduler.next_step().admitted == [(0, "a"), (1, "b")]
    assert scheduler.advance("x") == [(0, "a")]
    assert scheduler.next_step().admitted == [(0, "c")]
    assert scheduler.advance("x") == []
    scheduler.next_step()
    assert scheduler.advance("x") == [(0, "c"), (1, "b")]
    assert scheduler.next_step() is None


def test_the_window_bounds_what_is_read_ahead():
    scheduler = Scheduler(4, window=6)
    for i in range(100):
        if not scheduler.wants_more:
            break
        scheduler.add(i, bucket=i, steps=1)  # every work of another kind: no bucket can ever fill
    assert scheduler.waiting == 6


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="slots=0"):
        Scheduler(0)
    with pytest.raises(ValueError, match="asks for 0 steps"):
        Scheduler(1).add("a", "x", 0)
