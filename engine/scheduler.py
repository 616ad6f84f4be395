"""Who runs in the next engine step: works go in, (bucket, places that advance) come out. Knows no torch.

A bucket is one static shape whose network takes `rows` rows a step; a work names how many rows each of its steps needs
(two with text guidance, one without). A bucket holds up to `places` works, more than fit one step; each step advances
the oldest ones that fit, the others wait untouched. A freed row is used at the next step.

A bucket runs while it can fill its rows; one that cannot is parked until more of its kind arrives, and runs when
nothing better is to be had or when its oldest work has waited too long. Once no more work will come, the longest
waiting works start first, and as soon as all that is left has a place the works with most steps to go advance first: no
schedule of whole steps ends sooner (McNaughton 1959), so hardly a row idles at the end.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

PATIENCE = 2000  # steps after which a parked work is run whatever else could fill its batch


@dataclass(eq=False)
class Item:
    """A work and how far it is. rows: network rows of each of its steps."""

    work: Hashable
    rows: Sequence[int]
    since: int
    done: int = 0
    paused: bool = False

    @property
    def cost(self) -> int:
        return self.rows[self.done]

    @property
    def remaining(self) -> int:
        return len(self.rows) - self.done


class Active(NamedTuple):
    """A work that advances in this step."""

    place: int
    rows: int


@dataclass
class Bucket:
    """The waiting and running works of one static shape."""

    rows: int
    places: int
    waiting: deque[Item] = field(default_factory=deque)
    running: dict[int, Item] = field(default_factory=dict)  # by place, oldest first
    free: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.free = list(range(self.places))[::-1]

    @property
    def demand(self) -> int:
        """Rows that would carry work if this bucket ran now."""
        total = 0
        for item in chain(self.awake, islice(self.waiting, len(self.free))):
            total += item.cost
            if total >= self.rows:
                return self.rows
        return total

    @property
    def awake(self) -> Iterator[Item]:
        """The running works that can advance."""
        return (item for item in self.running.values() if not item.paused)

    @property
    def oldest(self) -> Item | None:
        """The work that has been here longest."""
        return next(chain(self.running.values(), self.waiting), None)

    def plan(self, more: bool, ending: bool) -> tuple[list[tuple[int, Hashable]], list[Active]]:
        """Who starts and who advances. more: whether works may start; ending: whether none will join the waiting."""
        admitted: list[tuple[int, Hashable]] = []
        everyone = more and ending and len(self.waiting) <= len(self.free)
        while everyone and self.waiting:
            admitted.append(self._admit(0))
        order = [(place, item) for place, item in self.running.items() if not item.paused]
        if everyone:
            order.sort(key=lambda entry: -entry[1].remaining)
        active, free = [], self.rows
        for place, item in order:
            if item.cost <= free:
                active.append(Active(place, item.cost))
                free -= item.cost
        while more and self.free and (index := self._fitting(free)) is not None:
            active.append(Active(self.free[-1], self.waiting[index].cost))
            free -= active[-1].rows
            admitted.append(self._admit(index))
        return admitted, active

    def advance(self, active: Sequence[Active]) -> list[tuple[int, Hashable]]:
        """Count one step for those that advanced and retire the works that are done."""
        retired = []
        for place, _ in active:
            item = self.running[place]
            item.done += 1
            if not item.remaining:
                retired.append((place, self.drop(place)))
        return retired

    def drop(self, place: int) -> Hashable:
        """Free a place, whether its work is done or given up."""
        self.free.append(place)
        return self.running.pop(place).work

    def _fitting(self, rows: int) -> int | None:
        """The first waiting work whose first step fits."""
        return next((index for index, item in enumerate(self.waiting) if item.cost <= rows), None)

    def _admit(self, index: int) -> tuple[int, Hashable]:
        place, item = self.free.pop(), self.waiting[index]
        del self.waiting[index]
        self.running[place] = item
        return place, item.work


class Step(NamedTuple):
    """One engine step: the bucket that runs, the works that start with it and the places that advance."""

    bucket: Hashable
    admitted: list[tuple[int, Hashable]]
    active: list[Active]


class Scheduler:
    """Admits, groups and retires works; see the module's first lines for the policy.

    slots: rows of a batch, unless `shape` gives a bucket's (rows, places) itself. window: how many works may wait
    before the engine stops asking for more.
    """

    def __init__(
        self,
        slots: int,
        window: int | None = None,
        shape: Callable[[Hashable], tuple[int, int]] | None = None,
        patience: int = PATIENCE,
    ):
        if slots < 1:
            raise ValueError(f"slots={slots}: at least one slot is needed")
        self.window = max(window or 4 * slots, 1)
        self.buckets: dict[Hashable, Bucket] = {}
        self.steps = 0
        self.holding = False  # while set, nothing starts: what runs is brought to its end
        self._shape = shape or (lambda bucket: (slots, 2 * slots))
        self._patience = patience
        self._current: Hashable | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        return sum(len(bucket.waiting) for bucket in self.buckets.values())

    @property
    def running(self) -> int:
        return sum(len(bucket.running) for bucket in self.buckets.values())

    @property
    def busy(self) -> bool:
        return bool(self.buckets)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def wants_more(self) -> bool:
        """Whether the next step would leave rows idle that another work might fill."""
        return not self._closed and self.waiting < self.window and not self._full(self._current)

    @property
    def full(self) -> bool:
        """Whether some bucket has works enough for all its rows, as far as they fit; then a step can run."""
        return not self.holding and any(map(self._full, self.buckets))

    def add(self, work: Hashable, bucket: Hashable, rows: Sequence[int]) -> None:
        """rows: network rows of each step that the work needs, one entry a step."""
        if not rows:
            raise ValueError(f"work {work!r} asks for no steps: at least one is needed")
        self._bucket(bucket).waiting.append(Item(work, rows, self.steps))

    def close(self) -> None:
        """No more work will come: what waits starts longest first."""
        self._closed = True
        for bucket in self.buckets.values():
            bucket.waiting = deque(sorted(bucket.waiting, key=lambda item: -item.remaining))

    def next_step(self) -> Step | None:
        """Choose the bucket of the next step and fill its rows; None when nothing can run."""
        candidates = [name for name in self.buckets if self._can_run(name)]
        if not candidates:
            return None
        self._current = self._choose(candidates)
        admitted, active = self.buckets[self._current].plan(not self.holding, self._closed)
        self.steps += 1
        return Step(self._current, admitted, active)

    def advance(self, step: Step) -> list[tuple[int, Hashable]]:
        """Retire the finished works of the step that has just run: [(place, work)]."""
        retired = self.buckets[step.bucket].advance(step.active)
        self._forget_empty(step.bucket)
        return retired

    def progress(self, step: Step) -> list[tuple[int, Hashable, int]]:
        """The works of a step that go on: [(place, work, steps done)]."""
        running = self.buckets[step.bucket].running if step.bucket in self.buckets else {}
        items = ((place, running.get(place)) for place, _ in step.active)
        return [(place, item.work, item.done) for place, item in items if item]

    def pause(self, bucket: Hashable, place: int, paused: bool = True) -> None:
        """Let a running work wait where it is, or go on."""
        self.buckets[bucket].running[place].paused = paused

    def drop(self, bucket: Hashable, place: int) -> Hashable:
        """Give up the running work at a place; returns it."""
        work = self.buckets[bucket].drop(place)
        self._forget_empty(bucket)
        return work

    def restart(self, shape: Callable[[Hashable], tuple[int, int]] | None = None) -> None:
        """Every running work waits again, oldest first and with all its steps to go, in buckets of a new shape."""
        self._shape = shape or self._shape
        old, self.buckets = self.buckets, {}
        for name, bucket in old.items():
            for item in chain(bucket.running.values(), bucket.waiting):
                item.done, item.paused = 0, False
                self._bucket(name).waiting.append(item)

    def _bucket(self, name: Hashable) -> Bucket:
        if name not in self.buckets:
            self.buckets[name] = Bucket(*self._shape(name))
        return self.buckets[name]

    def _can_run(self, name: Hashable) -> bool:
        bucket = self.buckets[name]
        startable = bucket.waiting and bucket.free and not self.holding
        return bool(startable) or any(bucket.awake)

    def _forget_empty(self, name: Hashable) -> None:
        if self.buckets[name].oldest is None:
            del self.buckets[name]

    def _full(self, name: Hashable | None) -> bool:
        return name in self.buckets and self.buckets[name].demand == self.buckets[name].rows

    def _choose(self, names: list[Hashable]) -> Hashable:
        """Whoever has waited too long; else the current bucket while it is full, else the fullest one."""
        if len(names) == 1:
            return names[0]
        oldest = min(names, key=lambda name: self.buckets[name].oldest.since)
        if self.steps - self.buckets[oldest].oldest.since > self._patience:
            return oldest
        if self._current in names and self._full(self._current):
            return self._current
        return max(names, key=lambda name: self.buckets[name].demand / self.buckets[name].rows)
