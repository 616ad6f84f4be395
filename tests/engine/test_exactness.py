"""Exact mode equals diffusers' img2img pipeline, whatever the slots, the neighbours and the order."""

import random

import numpy as np
import pytest

from discl import Engine, Request
from tests.engine.oracle import SCHEDULERS, assert_close_pixels, diffusers_image, load_pipeline, random_image
from tests.tiny import tiny_sd

LEVELS = (0, 10, 30, 50, 90)
STEPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"), seed=1)


def spectrum_requests(size: tuple[int, int], seed: int, guidance=(None,)) -> list[Request]:
    """Two sources over every level, with prompts and negative prompts of their own."""
    return [
        Request(
            image=random_image(*size, seed=seed + source),
            prompt=f"a photo of a cat number {source}",
            negative_prompt="" if source else "blurry",
            level=level,
            noise_seed=1000 * seed + source,
            text_guidance=guidance[(source + level) % len(guidance)],
            key=f"{source}-{level}",
        )
        for source in range(2)
        for level in LEVELS
    ]


def run_shuffled(folder, requests, seed: int, **options) -> dict[str, np.ndarray]:
    shuffled = random.Random(seed).sample(requests, len(requests))
    with Engine.from_pretrained(folder, steps=STEPS, **options) as engine:
        samples = list(engine.run(shuffled))
    assert sorted(s.request.key for s in samples) == sorted(r.key for r in requests)
    assert all(s.status == "ok" for s in samples), [s.reason for s in samples]
    return {s.request.key: s.image for s in samples}


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("size", [(64, 64), (72, 48)])
def test_equals_diffusers_at_every_slot_count(folder, solver, size):
    requests = spectrum_requests(size, seed=size[0], guidance=(None, 1.0, 10.0))
    pipe = load_pipeline(folder, solver)
    expected = {r.key: diffusers_image(pipe, r, STEPS, 7.5) for r in requests}
    for slots in (1, 3, 16):
        ours = run_shuffled(folder, requests, seed=slots, solver=solver, slots=slots, text_guidance=7.5)
        for key, image in expected.items():
            assert_close_pixels(ours[key], image)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SCHEDULERS)
def test_equals_diffusers_at_every_level(folder, solver):
    image, steps = random_image(64, 48, seed=8), 50
    requests = [Request(image, f"cat {level}", level, 50 + level, key=str(level)) for level in range(99)]
    with Engine.from_pretrained(folder, steps=steps, solver=solver, slots=16) as engine:
        samples = list(engine.run(requests))
    pipe = load_pipeline(folder, solver)
    assert len(samples) == 99
    for sample in samples:
        assert_close_pixels(sample.image, diffusers_image(pipe, sample.request, steps, 7.5))


def test_mixed_sizes_and_guidance_in_one_run(folder):
    requests = [
        request
        for seed, size in enumerate([(64, 64), (72, 48), (40, 56)])
        for request in spectrum_requests(size, seed=10 + seed, guidance=(1.0, 7.5))
    ]
    requests = [Request(**{**vars(r), "key": f"{i}"}) for i, r in enumerate(requests)]
    ours = run_shuffled(folder, requests, seed=5, solver="ddim", slots=4)
    pipe = load_pipeline(folder, "ddim")
    for request in requests:
        assert_close_pixels(ours[request.key], diffusers_image(pipe, request, STEPS, 7.5))


@pytest.mark.parametrize("size", [(50, 70), (131, 65)])
def test_odd_sizes_round_as_diffusers_does(folder, size):
    request = Request(random_image(*size, seed=3), "a dog", level=50, noise_seed=4, key="odd")
    ours = run_shuffled(folder, [request], seed=0, solver="euler", slots=2)["odd"]
    assert_close_pixels(ours, diffusers_image(load_pipeline(folder, "euler"), request, STEPS, 7.5))


@pytest.mark.parametrize(
    "variant",
    [
        {"prediction": "v_prediction", "scheduler": "ddim"},
        {"prediction": "v_prediction", "scheduler": "euler"},
        {"scheduler": "euler", "timestep_spacing": "linspace"},
        {"scheduler": "euler", "use_karras_sigmas": True},
        {"scheduler": "ddim", "timestep_spacing": "trailing"},
        {"scheduler": "ddim", "clip_sample": True},
        {"scheduler": "ddim", "vae_levels": 3},
    ],
    ids=lambda variant: "-".join(map(str, variant.values())),
)
def test_model_variants(tmp_path, variant):
    """Predictions, spacings, clipping and other VAE factors, with the pipeline's own scheduler (solver auto)."""
    folder = tiny_sd(tmp_path / "sd", seed=2, **variant)
    requests = spectrum_requests((64, 48), seed=7)
    ours = run_shuffled(folder, requests, seed=1, slots=4)
    pipe = load_pipeline(folder, variant["scheduler"])
    for request in requests:
        assert_close_pixels(ours[request.key], diffusers_image(pipe, request, STEPS, 7.5))


def test_compiled_backend_agrees_with_eager(folder):
    requests = spectrum_requests((64, 64), seed=21)
    eager = run_shuffled(folder, requests, seed=1, slots=4, solver="ddim")
    compiled = run_shuffled(folder, requests, seed=2, slots=4, solver="ddim", backend="torch-compile")
    for key in eager:
        assert_close_pixels(compiled[key], eager[key])


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SCHEDULERS)
def test_equals_diffusers_on_a_device(folder, solver):
    requests = spectrum_requests((72, 48), seed=31, guidance=(1.0, 7.5))
    pipe = load_pipeline(folder, solver).to("cuda")
    ours = run_shuffled(folder, requests, seed=3, solver=solver, slots=3, device="cuda")
    again = run_shuffled(folder, requests, seed=4, solver=solver, slots=3, device="cuda")
    for request in requests:
        assert_close_pixels(ours[request.key], diffusers_image(pipe, request, STEPS, 7.5))
        np.testing.assert_array_equal(ours[request.key], again[request.key])
