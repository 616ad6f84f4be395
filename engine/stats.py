"""What the engine counts while it runs."""

from collections import Counter, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch


@dataclass
class Stats:
    """What an engine has done over its life; stats["name"] works as well.

    unet_evaluations: network rows that carried work (a guided step is two). slot_occupancy: share of network rows that
    did. seconds: time by stage (feed, text, encode, start, unet, decode, score): the host's, and with `device_clock`
    the device's for what runs there; feed is the loop's wait for requests and their pictures; `<stage>.warm-up` is the
    part by which a stage's first calls took longer than their second ones, as code was compiled and libraries set
    themselves up. samples: finished samples by status. retried: requests made again in float32. previews: latents
    judged part-way. out_of_memory: how often the slots were halved.
    """

    unet_evaluations: int = 0
    engine_steps: int = 0
    slot_occupancy: float = 1.0
    seconds: Counter = field(default_factory=Counter)
    samples: Counter = field(default_factory=Counter)
    row_steps: int = 0
    retried: int = 0
    previews: int = 0
    out_of_memory: int = 0
    device_clock: bool = False
    _ticks: deque = field(default_factory=deque, repr=False)
    _first: dict = field(default_factory=dict, repr=False)  # (stage, shape) -> seconds; None once booked as warm-up

    def __getitem__(self, name: str):
        return getattr(self, name)

    @contextmanager
    def timed(self, stage: str, host: bool = False, shape: Hashable = None) -> Iterator[None]:
        """Add what happens inside to seconds[stage]. On a device nothing waits: events are read later.

        host: what happens is the host's own work, whatever the device does meanwhile. shape: of work that takes as long
        every time, once it is warm.
        """
        if self.device_clock and not host:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            try:
                yield
            finally:
                end.record()
                self._ticks.append((stage, shape, begin, end))
                self.settle(wait=False)
            return
        start = perf_counter()
        try:
            yield
        finally:
            self._book(stage, shape, perf_counter() - start)

    def settle(self, wait: bool = True) -> None:
        """Book the device times that have passed; with `wait`, all of them."""
        while self._ticks and (wait or self._ticks[0][3].query()):
            stage, shape, begin, end = self._ticks.popleft()
            end.synchronize()
            self._book(stage, shape, begin.elapsed_time(end) / 1000)

    def _book(self, stage: str, shape: Hashable, seconds: float) -> None:
        self.seconds[stage] += seconds
        if shape is None:
            return
        if (stage, shape) not in self._first:
            self._first[stage, shape] = seconds
        elif (first := self._first[stage, shape]) is not None:
            self.seconds[f"{stage}.warm-up"] += max(0.0, first - seconds)
            self._first[stage, shape] = None

    def count_step(self, active_rows: int, rows: int) -> None:
        self.engine_steps += 1
        self.unet_evaluations += active_rows
        self.row_steps += rows
        self.slot_occupancy = self.unet_evaluations / self.row_steps
