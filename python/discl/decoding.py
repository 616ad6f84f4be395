"""Where images are decoded, and a trial in the running training of which place is fastest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from discl.errors import ConfigError

SETTLING = 6  # batches after a change that say nothing: the queue still holds what was there before


@dataclass(frozen=True)
class Decoding:
    """device: "cpu", or "mixed" for decoding that ends on the GPU; hardware: the JPEG engine's share of it.

    Above 0.65 the engine lengthens the slowest batches; its pixels differ slightly from those of CUDA and CPU.
    """

    name: str
    device: str
    hardware: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of DALI's image decoder."""
        return {"device": self.device} | ({"hw_decoder_load": self.hardware} if self.device == "mixed" else {})


CPU = Decoding("cpu", "cpu")
ON_GPU = (Decoding("mixed", "mixed"), Decoding("hardware", "mixed", 0.65))


def decodings(wanted: str, device: torch.device) -> tuple[Decoding, ...]:
    """What to choose from: one, or for "auto" all that the device has. Raises ConfigError."""
    there = (*ON_GPU, CPU) if device.type == "cuda" else (CPU,)
    chosen = tuple(decoding for decoding in there if wanted in ("auto", decoding.name))
    if not chosen:
        names = ", ".join(["auto", *(decoding.name for decoding in there)])
        raise ConfigError(f"decode = {wanted!r} on device {device}: expected one of {names}")
    return chosen


class Tuner:
    """Gives each of several settings its share of `trial` batches and then keeps the one with the shortest batches.

    A batch is timed from one to the next, with whatever the training does in between: that is what counts.
    """

    def __init__(self, settings: Sequence[Decoding], trial: int, clock: Callable[[], float] = time.perf_counter):
        self.settings, self.clock = tuple(settings), clock
        self.share = max(trial // len(settings), SETTLING + 1)
        self.chosen = settings[0].name if len(settings) == 1 else None
        self.seconds_per_batch: dict[str, float] = {}
        self.current = self.settings[0]
        self._intervals: list[float] = []
        self._last: float | None = None

    def begin(self) -> None:
        """An epoch begins: the time since its last batch was not spent on batches."""
        self._last = None

    def count_batch(self) -> bool:
        """One batch is done. True: a share has ended, `current` is the next setting or the one to keep."""
        if self.chosen:
            return False
        now = self.clock()
        if self._last is not None:
            self._intervals.append(now - self._last)
        self._last = now
        ended = len(self._intervals) >= self.share
        if ended:
            self._next()
        return ended

    def choose(self, name: str | None) -> None:
        """Take a choice that was made before; None: there was none, go on trying."""
        for setting in self.settings:
            if setting.name == name:
                self.chosen, self.current = name, setting

    def _next(self) -> None:
        kept = sorted(self._intervals[SETTLING:])
        self.seconds_per_batch[self.current.name] = kept[len(kept) // 2]
        self._intervals, self._last = [], None
        left = [setting for setting in self.settings if setting.name not in self.seconds_per_batch]
        if left:
            self.current = left[0]
        else:
            self.choose(min(self.seconds_per_batch, key=lambda name: self.seconds_per_batch[name]))
