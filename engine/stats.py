"""What the engine counts while it runs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Stats:
    """unet_evaluations: network rows that carried work (a guided step is two). slot_occupancy: share of slot-steps
    with work. seconds: wall time by stage. samples: finished samples by status. stats["name"] works as well.
    """

    unet_evaluations: int = 0
    engine_steps: int = 0
    slot_occupancy: float = 1.0
    seconds: Counter = field(default_factory=Counter)
    samples: Counter = field(default_factory=Counter)
    active_slot_steps: int = 0
    slot_steps: int = 0

    def __getitem__(self, name: str):
        return getattr(self, name)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begin = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - begin

    def count_step(self, active: int, slots: int, guided: bool) -> None:
        self.engine_steps += 1
        self.unet_evaluations += active * (2 if guided else 1)
        self.active_slot_steps += active
        self.slot_steps += slots
        self.slot_occupancy = self.active_slot_steps / self.slot_steps
