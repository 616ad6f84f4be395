"""Requests that come out of samples: the feed says "nothing now", the engine goes on and asks again."""

from collections import deque
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest

from discl import DisclError, Engine, Request
from tests.engine.oracle import random_image
from tests.tiny import tiny_sd

DEPTH = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"), seed=4)


def first_requests(count: int) -> list[Request]:
    levels = (0, 50, 75)
    return [
        Request(random_image(64, 64, seed=i), "a cat", levels[i % 3], noise_seed=100 * i, key=f"{i}.0")
        for i in range(count)
    ]


def follow_up(request: Request) -> Request | None:
    name, depth = request.key.split(".")
    if int(depth) == DEPTH:
        return None
    return replace(request, key=f"{name}.{int(depth) + 1}", noise_seed=request.noise_seed + 1)


class Chains:
    """A feed in which every sample asks for its follow-up. Counts how often it had nothing to give."""

    def __init__(self, requests: list[Request]):
        self.ready, self.open, self.waits = deque(requests), 0, 0

    def __iter__(self):
        while self.ready or self.open:
            if self.ready:
                self.open += 1
                yield self.ready.popleft()
            else:
                self.waits += 1
                yield None

    def finish(self, request: Request) -> None:
        self.open -= 1
        self.ready.extend(filter(None, [follow_up(request)]))


@pytest.mark.parametrize(("count", "slots"), [(1, 8), (3, 8), (11, 2), (40, 4)])
def test_follow_ups_are_made_and_are_the_images_of_a_plain_run(folder, count, slots):
    chains, made = Chains(first_requests(count)), {}
    with Engine.from_pretrained(folder, slots=slots, steps=8) as engine:
        for sample in engine.run(chains):
            made[sample.request.key] = sample
            chains.finish(sample.request)
        assert sorted(made) == sorted(f"{i}.{depth}" for i in range(count) for depth in range(DEPTH + 1))
        plain = engine.run([sample.request for sample in made.values()])
        for sample in plain:
            np.testing.assert_array_equal(sample.image, made[sample.request.key].image)


def test_a_full_batch_is_stepped_before_the_feed_is_asked_to_wait(folder):
    """With more chains than slots the slots stay full: the feed is first found empty when the chains run out."""
    chains = Chains(first_requests(40))
    with Engine.from_pretrained(folder, slots=4, steps=8) as engine:
        for sample in engine.run(chains):
            chains.finish(sample.request)
            assert not chains.waits or sum(engine.stats.samples.values()) > 40 * (DEPTH + 1) - 2 * 4 * 4
        assert engine.stats.slot_occupancy > 0.9


def test_a_feed_that_waits_for_nothing_is_named(folder):
    with Engine.from_pretrained(folder, slots=2, steps=4) as engine:
        with pytest.raises(DisclError, match="no sample is under way"):
            list(engine.run([None]))
        seen = []
        with pytest.raises(DisclError, match="no sample is under way"):
            for sample in engine.run(chain(first_requests(3), repeat(None))):
                seen.append(sample.request.key)
        assert sorted(seen) == ["0.0", "1.0", "2.0"]
