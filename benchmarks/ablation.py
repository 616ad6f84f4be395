"""Slots against sorting by level: the same engine and requests, mixed and refilled, or batch after batch of one level.

Sorted batches are full and as long as their level, so without rejection only their ends cost anything; a request that
is given up leaves a hole in its batch until the batch ends, while a slot is refilled at the next step.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from benchmarks.timing import interleave, record, seconds
from discl import Engine, Request
from discl.engine.previews import Rejection
from discl.engine.request import Sample


def ablation(engine: Engine, rejection: Rejection, wishes: list[Request], threshold: float, keep: bool, **settings):
    """Print and record accepted images a second, four ways. threshold: of accepted text scores."""
    contestants = {
        "slots": _accepted(engine, None, wishes, threshold, slots),
        "sorted": _accepted(engine, None, wishes, threshold, sorted_batches),
        "slots, rejecting": _accepted(engine, rejection, wishes, threshold, slots),
        "sorted, rejecting": _accepted(engine, rejection, wishes, threshold, sorted_batches),
    }
    for contestant in contestants.values():
        contestant()
    return record(
        "ablation",
        interleave(contestants, settings.pop("repeats")),
        "accepted images/s",
        {
            "slots / sorted": ("slots", "sorted"),
            "slots / sorted, rejecting": ("slots, rejecting", "sorted, rejecting"),
            "rejecting / not, slots": ("slots, rejecting", "slots"),
            "rejecting / not, sorted": ("sorted, rejecting", "sorted"),
        },
        keep=keep,
        requests=len(wishes),
        slots=engine.slots,
        **settings,
    )


def slots(engine: Engine, wishes: list[Request]) -> Iterator[Sample]:
    return engine.run(wishes)


def sorted_batches(engine: Engine, wishes: list[Request]) -> Iterator[Sample]:
    for _, same in groupby(sorted(wishes, key=lambda wish: wish.level), key=lambda wish: wish.level):
        level = list(same)
        for first in range(0, len(level), engine.slots):
            yield from engine.run(level[first : first + engine.slots])


def _accepted(
    engine: Engine, rejection: Rejection | None, wishes: list[Request], threshold: float,
    make: Callable[[Engine, list[Request]], Iterable[Sample]],
) -> Callable[[], float]:  # fmt: skip
    def rate() -> float:
        engine.reject_by(rejection)
        samples: list[Sample] = []
        elapsed = seconds(lambda: samples.extend(make(engine, wishes)))
        return sum(sample.status == "ok" and sample.text_score >= threshold for sample in samples) / elapsed

    return rate
