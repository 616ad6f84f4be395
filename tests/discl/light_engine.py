"""An engine without torch whose samples depend on the request's key alone, and a driver that runs it on Ray.

python -m tests.discl.light_engine CONFIG STORE ACTORS
"""

import hashlib
import sys
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np

from discl.config import RunConfig, load_config
from discl.engine import Sample

SAMPLE_S = 0.01


class LightEngine:
    """Takes SAMPLE_S a sample; every fifth is a `nan`."""

    def __init__(self, config: RunConfig, slots: int | str, sample_s: float = SAMPLE_S):
        self.slots, self.scorer, self.sample_s = 4, None, sample_s
        self.stats = SimpleNamespace(seconds=Counter(), unet_evaluations=0, slot_occupancy=1.0)

    def __enter__(self) -> "LightEngine":
        return self

    def __exit__(self, *error) -> None:
        pass

    def run(self, requests):
        for request in requests:
            if request is not None:
                time.sleep(self.sample_s)
                self.stats.unet_evaluations += 1
                yield self.sample(request)

    def sample(self, request) -> Sample:
        random = np.random.default_rng(int.from_bytes(hashlib.sha256(request.key.encode()).digest()[:8], "big"))
        if random.random() < 0.2:
            return Sample(request, status="nan", reason="made up")
        return Sample(request, image=random.integers(0, 256, (16, 24, 3), dtype=np.uint8))


if __name__ == "__main__":
    from discl.cluster.connection import Cluster
    from discl.generation import generate
    from tests.discl.light_engine import LightEngine as Pickled

    file, store, actors = sys.argv[1:]
    config = load_config(file, [f"store.path={store}", "store.shard_seconds=0.2"])
    generate(config, cluster=Cluster(actors=(1, int(actors)), cores=0.1), make=Pickled)
