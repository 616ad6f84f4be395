"""An engine to measure what is around engines with: a fixed time a step, nothing computed, no torch imported."""

import time
from collections import Counter
from types import SimpleNamespace

import numpy as np

from discl.config import RunConfig

STEP_S, SLOTS = 0.25, 2


class SteppingEngine:
    """SLOTS samples a step; nothing is computed."""

    def __init__(self, config: RunConfig, slots: int | str):
        self.slots, self.scorer = SLOTS, None
        self.stats = SimpleNamespace(seconds=Counter(), unet_evaluations=0, slot_occupancy=1.0)
        self._image = np.zeros((8, 8, 3), np.uint8)

    def __enter__(self) -> "SteppingEngine":
        return self

    def __exit__(self, *error) -> None:
        pass

    def run(self, requests):
        from discl.engine import Sample

        feed, batch, ended = iter(requests), [], False
        while not ended or batch:
            while not ended and len(batch) < SLOTS:
                request = next(feed, feed)
                if request is None:
                    break
                ended = request is feed
                batch += [] if ended else [request]
            time.sleep(STEP_S if batch else 0.0)
            self.stats.unet_evaluations += len(batch)
            yield from (Sample(request, image=self._image) for request in batch)
            batch = []
