"""Images of the fast families and of the other modes equal those of the diffusers pipelines made for them."""

import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelImg2ImgPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from discl import Engine, Request
from tests.engine.oracle import SCHEDULERS, assert_close_pixels, diffusers_image, load_pipeline, random_image
from tests.tiny import tiny_lcm, tiny_sd, tiny_sd_turbo, tiny_sdxl, tiny_sdxl_turbo

LEVELS = (0, 30, 50, 75)


def requests_of(levels, guidance: float, size=(64, 48)) -> list[Request]:
    return [
        Request(random_image(*size, seed=i), f"a fox {i}", level, noise_seed=90 + i, text_guidance=guidance)
        for level in levels
        for i in range(2)
    ]


def run(folder, requests, **options) -> list:
    with Engine.from_pretrained(folder, slots=3, **options) as engine:
        samples = list(engine.run(requests))
    assert len(samples) == len(requests)
    assert all(sample.status == "ok" for sample in samples), [sample.reason for sample in samples]
    return samples


@pytest.mark.parametrize("make", [tiny_sd_turbo, tiny_sdxl_turbo, tiny_lcm])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_fast_families_with_their_own_solver(tmp_path, make, guidance):
    folder = make(tmp_path / "model", 4)
    pipe = load_pipeline(folder)
    for sample in run(folder, requests_of(LEVELS, guidance), steps=4):
        assert_close_pixels(sample.image, diffusers_image(pipe, sample.request, 4, guidance))


@pytest.mark.parametrize("guidance", [1.5, 8.5])
def test_few_steps_of_a_latent_consistency_model(tmp_path, guidance):
    folder = tiny_lcm(tmp_path / "model", 5)
    pipe = LatentConsistencyModelImg2ImgPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    for sample in run(folder, requests_of(LEVELS, guidance), steps=4, mode="few-step"):
        request = sample.request
        expected = pipe(
            request.prompt,
            request.rgb(),
            num_inference_steps=4,
            strength=min(1.0, (50 * (100 - request.level) // 100 + 0.5) / 50),  # theirs floors a float
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(request.noise_seed),
        ).images[0]
        assert_close_pixels(sample.image, np.asarray(expected))


@pytest.mark.parametrize(
    ("solver", "steps", "level", "finer"), [("euler-ancestral", 2, 50, 4), ("dpmpp-2m", 6, 40, 10)]
)
def test_few_steps_of_trailing_grids_are_img2img_with_more(tmp_path, solver, steps, level, finer):
    """diffusers' users reach K steps below a level by asking for K / strength steps."""
    folder = tiny_sd(tmp_path / "model", 6, timestep_spacing="trailing")
    pipe = load_pipeline(folder, solver)
    for sample in run(folder, requests_of([level], 5.0), steps=steps, solver=solver, mode="few-step"):
        assert_close_pixels(sample.image, diffusers_image(pipe, sample.request, finer, 5.0))


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_pure_noise_is_text_to_image(tmp_path, make, solver):
    folder = make(tmp_path / "model", 7)
    cls, without = (
        (StableDiffusionPipeline, {"safety_checker": None, "requires_safety_checker": False})
        if make is tiny_sd
        else (StableDiffusionXLPipeline, {"add_watermarker": False})
    )
    pipe = cls.from_pretrained(folder, **without)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = SCHEDULERS[solver].from_config(pipe.scheduler.config)
    for sample in run(folder, requests_of([0], 6.0), steps=6, solver=solver, mode="pure-noise"):
        expected = pipe(
            sample.request.prompt,
            width=64,
            height=48,
            num_inference_steps=6,
            guidance_scale=6.0,
            generator=torch.Generator().manual_seed(sample.request.noise_seed),
        ).images[0]
        assert_close_pixels(sample.image, np.asarray(expected))
