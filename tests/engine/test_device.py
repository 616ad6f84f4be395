"""What only a CUDA device shows: streams, pinned copies, events and its real lack of memory."""

import random

import numpy as np
import pytest
import torch

from discl import Engine, Request
from discl.engine.one_by_one import one_by_one
from tests.engine.oracle import assert_close_pixels, random_image
from tests.tiny import tiny_clip, tiny_sd

pytestmark = pytest.mark.gpu
STEPS = 10


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return tiny_sd(root / "sd", seed=15), str(tiny_clip(root / "clip", seed=15))


def crowd(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    images = [random_image(*rng.choice([(64, 64), (72, 48)]), seed=i) for i in range(9)]
    return [
        Request(rng.choice(images), f"a {i}", rng.choice((0, 30, 50, 90)), rng.randrange(2**32), key=str(i))
        for i in range(count)
    ]


@pytest.mark.parametrize("solver", ["ddim", "euler-ancestral", "dpmpp-2m"])
def test_the_run_beside_its_decoder_makes_what_the_plain_loop_makes(models, solver):
    folder, clip = models
    requests = crowd(60, 1)
    with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=6, device="cuda", solver=solver) as engine:
        plain = {sample.request.key: sample for sample in one_by_one(engine, requests)}
        first = {sample.request.key: sample for sample in engine.run(requests)}
        again = {sample.request.key: sample for sample in engine.run(requests[::-1])}
    assert first.keys() == again.keys() == plain.keys()
    for key, sample in first.items():
        assert_close_pixels(sample.image, plain[key].image)
        np.testing.assert_array_equal(sample.image, again[key].image)
        np.testing.assert_array_equal(sample.embedding, again[key].embedding)


def test_times_are_the_devices(models):
    with Engine.from_pretrained(models[0], steps=STEPS, slots=6, device="cuda") as engine:
        assert len(list(engine.run(crowd(20, 2)))) == 20
        assert engine.stats.seconds["unet"] > 0 and engine.stats.seconds["decode"] > 0
        assert not engine.stats._ticks


def test_memory_that_runs_out_costs_slots_and_no_request(models):
    """The allocator is given half of what a run with all slots took beyond the model."""
    requests = [Request(random_image(512, 512, seed=i), "a cat", 50, noise_seed=i, key=str(i)) for i in range(20)]
    with Engine.from_pretrained(models[0], steps=4, slots=64, device="cuda") as engine:
        torch.cuda.reset_peak_memory_stats()
        assert len(list(engine.run(requests))) == 20
        peak = torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        limit = (torch.cuda.memory_reserved() + peak) / 2
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        try:
            samples = list(engine.run(requests))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert sorted(int(sample.request.key) for sample in samples) == list(range(20))
    assert engine.stats.out_of_memory > 0
    assert all(sample.slots < 64 for sample in samples)
