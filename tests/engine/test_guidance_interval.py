"""Text guidance in a part of the schedule only: diffusers is the judge, and a whole interval is no interval."""

import numpy as np
import pytest
import torch

from discl import DisclError, Engine, Request
from tests.engine.oracle import assert_close_pixels, load_pipeline, random_image
from tests.tiny import tiny_sd

STEPS, GUIDANCE = 10, 7.5
UNGUIDED = 1 + 1e-6  # diffusers keeps both rows above 1; so close to it, guidance changes no pixel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"), seed=6)


def spectrum() -> list[Request]:
    return [
        Request(
            random_image(64, 64, seed=i), f"cat {i}", level, noise_seed=i, negative_prompt="blurry", key=f"{i}.{level}"
        )
        for i in range(3)
        for level in (0, 10, 30, 50, 70)
    ]


def diffusers_image(pipe, request: Request, interval: tuple[float, float]) -> np.ndarray:
    """diffusers' pipeline whose guidance scale is set before every step, as its callbacks allow."""
    executed = STEPS * (100 - request.level) // 100
    pipe.scheduler.set_timesteps(STEPS)
    timesteps = pipe.scheduler.timesteps[STEPS - executed :].tolist()

    def scale(step: int) -> float:
        inside = step < executed and interval[0] <= timesteps[step] / 1000 < interval[1]
        return GUIDANCE if inside else UNGUIDED

    def set_next(pipe, step, timestep, values):
        pipe._guidance_scale = scale(step + 1)
        return values

    image = pipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        image=request.rgb(),
        strength=(executed + 0.5) / STEPS if executed < STEPS else 1.0,
        num_inference_steps=STEPS,
        guidance_scale=scale(0),
        generator=torch.Generator("cpu").manual_seed(request.noise_seed),
        callback_on_step_end=set_next,
    ).images[0]
    return np.asarray(image)


def run(folder, requests, **options) -> tuple[dict, Engine]:
    with Engine.from_pretrained(folder, steps=STEPS, text_guidance=GUIDANCE, **options) as engine:
        samples = {sample.request.key: sample for sample in engine.run(requests)}
    assert samples.keys() == {request.key for request in requests}
    return samples, engine


@pytest.mark.parametrize("solver", ["ddim", "euler"])
@pytest.mark.parametrize("interval", [(0.3, 0.8), (0.0, 0.45), (0.5, 1.0), (0.96, 1.0)])
def test_equals_diffusers_with_a_scale_that_changes(folder, solver, interval):
    samples, _ = run(folder, spectrum(), solver=solver, slots=4, guidance_interval=interval)
    pipe = load_pipeline(folder, solver)
    for sample in samples.values():
        assert_close_pixels(sample.image, diffusers_image(pipe, sample.request, interval))


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_an_interval_that_covers_everything_is_none_to_the_last_bit(folder, slots):
    whole, _ = run(folder, spectrum(), slots=slots, guidance_interval=(0.0, 1.0))
    none, _ = run(folder, spectrum(), slots=slots)
    for key, sample in none.items():
        np.testing.assert_array_equal(whole[key].image, sample.image)


def test_bits_do_not_depend_on_how_rows_are_packed(folder):
    requests = spectrum()
    together, _ = run(folder, requests, slots=4, guidance_interval=(0.25, 0.6))
    backwards, _ = run(folder, requests[::-1], slots=4, guidance_interval=(0.25, 0.6))
    for request in requests[::4]:
        alone, _ = run(folder, [request], slots=4, guidance_interval=(0.25, 0.6))
        np.testing.assert_array_equal(alone[request.key].image, together[request.key].image)
    for key, sample in together.items():
        np.testing.assert_array_equal(backwards[key].image, sample.image)


def test_only_steps_inside_take_two_rows_and_the_rows_stay_full(folder):
    requests = [request for request in spectrum() * 4]
    with Engine.from_pretrained(folder, steps=STEPS, slots=4, solver="ddim", guidance_interval=(0.5, 1.0)) as engine:
        timesteps = {level: engine.solver.trajectory(level).rows[:, 0] for level in (0, 10, 30, 50, 70)}
        assert len(list(engine.run(requests))) == len(requests)
        expected = sum((timesteps[r.level] >= 500).sum() + len(timesteps[r.level]) for r in requests)
        assert engine.stats.unet_evaluations == expected
        assert engine.stats.slot_occupancy > 0.95


@pytest.mark.parametrize(
    "interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 0.5), (0.5, 1.1), 0.5, (0.1,), ("a", "b"), (float("nan"), 1)]
)
def test_nonsense_is_refused(folder, interval):
    with pytest.raises(DisclError, match="guidance_interval="):
        Engine.from_pretrained(folder, guidance_interval=interval)
