"""Who runs in the next engine step: work ids go in, (bucket, active slots) come out. Knows no torch.

A bucket is one static shape (image size, guided or not) with its own `slots` slots. A slot that finishes is refilled at
the next step. A bucket runs while it can fill its slots; one that cannot is parked until more of its kind arrives, and
is drained when nothing better is to be had, so that no slot idles while work waits.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class Bucket:
    """The waiting and running work of one static shape."""

    slots: int
    waiting: deque[tuple[Hashable, int]] = field(default_factory=deque)  # (work id, steps)
    running: list[Hashable | None] = field(default_factory=list)
    remaining: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.running = [None] * self.slots
        self.remaining = [0] * self.slots

    @property
    def active(self) -> int:
        return sum(work is not None for work in self.running)

    @property
    def demand(self) -> int:
        """Slots that would be filled if this bucket ran now."""
        return min(self.slots, self.active + len(self.waiting))

    def admit(self) -> list[tuple[int, Hashable]]:
        """Fill the free slots, first come first served."""
        admitted = []
        for slot, work in enumerate(self.running):
            if work is None and self.waiting:
                self.running[slot], self.remaining[slot] = self.waiting.popleft()
                admitted.append((slot, self.running[slot]))
        return admitted

    def advance(self) -> list[tuple[int, Hashable]]:
        """Count one step for every running slot and retire those that are done."""
        retired = []
        for slot, work in enumerate(self.running):
            if work is None:
                continue
            self.remaining[slot] -= 1
            if self.remaining[slot] == 0:
                self.running[slot] = None
                retired.append((slot, work))
        return retired


@dataclass(frozen=True)
class Step:
    """One engine step: the bucket that runs, the slots filled just before, and how many slots are active."""

    bucket: Hashable
    admitted: list[tuple[int, Hashable]]
    active: int


class Scheduler:
    """Admits, groups and retires work; see the module's first lines for the policy.

    slots: rows of a batch. window: how many works may wait before the engine stops asking for more.
    """

    def __init__(self, slots: int, window: int | None = None):
        if slots < 1:
            raise ValueError(f"slots={slots}: at least one slot is needed")
        self.slots = slots
        self.window = max(window or 4 * slots, 1)
        self.buckets: dict[Hashable, Bucket] = {}
        self.steps = 0
        self.active_slot_steps = 0
        self._current: Hashable | None = None
        self._closed = False

    @property
    def occupancy(self) -> float:
        """Share of slot-steps that carried work so far."""
        return self.active_slot_steps / (self.steps * self.slots) if self.steps else 1.0

    @property
    def waiting(self) -> int:
        return sum(len(bucket.waiting) for bucket in self.buckets.values())

    @property
    def busy(self) -> bool:
        return any(bucket.demand for bucket in self.buckets.values())

    @property
    def wants_more(self) -> bool:
        """Whether the next step would leave slots idle that another request might fill."""
        return not self._closed and self.waiting < self.window and not self._full(self._current)

    def add(self, work: Hashable, bucket: Hashable, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"work {work!r} asks for {steps} steps: at least one is needed")
        self.buckets.setdefault(bucket, Bucket(self.slots)).waiting.append((work, steps))

    def close(self) -> None:
        """No more work will come: what waits starts longest first, so that the slots drain together."""
        self._closed = True
        for bucket in self.buckets.values():
            bucket.waiting = deque(sorted(bucket.waiting, key=lambda item: -item[1]))

    def next_step(self) -> Step | None:
        """Choose the bucket of the next step and fill its slots; None when there is no work at all."""
        if not self.busy:
            return None
        self._current = self._choose()
        bucket = self.buckets[self._current]
        admitted = bucket.admit()
        self.steps += 1
        self.active_slot_steps += bucket.active
        return Step(self._current, admitted, bucket.active)

    def advance(self, bucket: Hashable) -> list[tuple[int, Hashable]]:
        """Retire the finished slots of the bucket that has just run: [(slot, work id)]."""
        return self.buckets[bucket].advance()

    def _full(self, name: Hashable | None) -> bool:
        return name in self.buckets and self.buckets[name].demand == self.slots

    def _choose(self) -> Hashable:
        """Stay with the current bucket while it is full, else the fullest one (the oldest among equals)."""
        if self._full(self._current):
            return self._current
        return max(self.buckets, key=lambda name: self.buckets[name].demand)
