"""The engine makes what the plain loop makes, whatever it does to be fast."""

import random

import numpy as np
import pytest

from discl import Engine, Request
from discl.engine.one_by_one import one_by_one
from discl.engine.solvers import SOLVERS
from tests.engine.oracle import assert_close_pixels, random_image
from tests.tiny import tiny_clip, tiny_sd, tiny_sdxl

LEVELS = (0, 10, 30, 50, 90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"), seed=8)


def crowd(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    images = [random_image(*rng.choice([(64, 64), (72, 48)]), seed=i) for i in range(4)]
    return [
        Request(
            rng.choice(images),
            f"a {rng.choice('abc')}",
            rng.choice(LEVELS),
            rng.randrange(2**32),
            negative_prompt=rng.choice(["", "blurry"]),
            text_guidance=rng.choice([None, 1.0, 12.0]),
            key=str(i),
        )
        for i in range(count)
    ]


def assert_engine_is_the_plain_loop(folder, requests, **options) -> None:
    with Engine.from_pretrained(folder, steps=10, slots=5, **options) as engine:
        plain = {sample.request.key: sample for sample in one_by_one(engine, requests)}
        fast = {sample.request.key: sample for sample in engine.run(requests)}
    assert fast.keys() == plain.keys() == {request.key for request in requests}
    for key, sample in fast.items():
        assert sample.status == plain[key].status == "ok", (sample.reason, plain[key].reason)
        assert_close_pixels(sample.image, plain[key].image, largest=1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("interval", [None, (0.2, 0.7)])
def test_every_solver_level_and_guidance(folder, solver, interval):
    assert_engine_is_the_plain_loop(folder, crowd(24, seed=1), solver=solver, guidance_interval=interval)


def test_a_family_with_more_conditions(tmp_path):
    assert_engine_is_the_plain_loop(tiny_sdxl(tmp_path / "sdxl", seed=2), crowd(12, seed=2))


def test_scores(folder, tmp_path):
    clip = str(tiny_clip(tmp_path / "clip", seed=3))
    requests = crowd(10, seed=3)
    with Engine.from_pretrained(folder, clip=clip, steps=10, slots=5, score_prompt="a {class}") as engine:
        plain = {sample.request.key: sample for sample in one_by_one(engine, requests)}
        for sample in engine.run(requests):
            judge = plain[sample.request.key]
            np.testing.assert_allclose(sample.embedding, judge.embedding, atol=2e-2)
            assert sample.text_score == pytest.approx(judge.text_score, abs=5e-3)
            assert sample.image_score == pytest.approx(judge.image_score, abs=5e-3)
