"""Where a training's seconds go (loader, step, evaluation, checkpoint), as shares, rate and bottleneck."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PARTS = ("loader", "step", "evaluation", "checkpoint")


class Spent:
    """Adds up the host's seconds by part. Steps on CUDA run behind the host, which waits for them now and then: over
    many steps their seconds are right, and what the loader takes is an upper bound of what the device waited."""

    def __init__(self, seconds: dict[str, float] | None = None):
        self.seconds = dict.fromkeys(PARTS, 0.0) | (seconds or {})

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


def shares(seconds: dict[str, float], images: int) -> dict[str, Any]:
    """Seconds by part -> images_per_second; input_wait and compute, the loader's and the step's share of the loop; and
    bottleneck, the part that takes longest."""
    loop = max(seconds["loader"] + seconds["step"], 1e-9)
    return {
        "images_per_second": images / max(sum(seconds.values()), 1e-9),
        "input_wait": seconds["loader"] / loop,
        "compute": seconds["step"] / loop,
        "bottleneck": max(PARTS, key=lambda part: seconds[part]),
    }
