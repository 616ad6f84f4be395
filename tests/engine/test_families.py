"""Every model family equals diffusers' own img2img pipeline of a folder with random weights."""

import itertools
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from discl import Engine, Request
from discl.engine.autoencoder import Autoencoder
from discl.engine.denoiser import torch_denoiser
from discl.engine.pretrained import load_model
from tests.engine.oracle import assert_close_pixels, diffusers_image, load_pipeline, random_image
from tests.tiny import tiny_lcm, tiny_sd, tiny_sd2, tiny_sd_turbo, tiny_sdxl, tiny_sdxl_turbo

STEPS = 6
FAMILIES = {
    "sd1": tiny_sd,
    "sd2": tiny_sd2,
    "sd-turbo": tiny_sd_turbo,
    "lcm": tiny_lcm,
    "sdxl": tiny_sdxl,
    "sdxl-turbo": tiny_sdxl_turbo,
    "sdxl-refiner": lambda folder, seed: tiny_sdxl(folder, seed, refiner=True),
}
# Three halvings, as the published networks have: latents that are no multiple of eight are upsampled by size.
DEEP = (8, 8, 8, 16)


def requests_of(sizes, seed: int, levels=(0, 50)) -> list[Request]:
    """Every combination of size, level, guidance (also none) and negative prompt (also none)."""
    wishes = itertools.product(sizes, levels, (1.0, 7.5), ("", "blurry"))
    return [
        Request(
            random_image(*size, seed=seed + i),
            f"cat {i}",
            level,
            noise_seed=seed + i,
            negative_prompt=negative,
            text_guidance=guidance,
            key=str(i),
        )
        for i, (size, level, guidance, negative) in enumerate(wishes)
    ]


def assert_equals_diffusers(folder, requests, solver: str, device: str = "cpu", **options) -> None:
    pipe = load_pipeline(folder, solver).to(device)
    shuffled = random.Random(0).sample(requests, len(requests))
    with Engine.from_pretrained(folder, device=device, solver=solver, steps=STEPS, **{"slots": 5, **options}) as engine:
        samples = list(engine.run(shuffled))
    assert sorted(s.request.key for s in samples) == sorted(r.key for r in requests)
    for sample in samples:
        assert sample.status == "ok", sample.reason
        assert_close_pixels(sample.image, diffusers_image(pipe, sample.request, STEPS, 7.5))


@pytest.mark.parametrize("solver", ["auto", "ddim"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_diffusers(tmp_path, family, solver):
    folder = FAMILIES[family](tmp_path / "model", seed=3)
    assert_equals_diffusers(folder, requests_of([(64, 64), (76, 50)], seed=20), solver)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_diffusers_on_a_device(tmp_path, family):
    folder = FAMILIES[family](tmp_path / "model", seed=3)
    assert_equals_diffusers(folder, requests_of([(64, 64), (76, 50)], seed=20), "auto", device="cuda")


@pytest.mark.parametrize("refiner", [False, True])
def test_the_papers_size(tmp_path, refiner):
    """480x270 becomes 480x264: latents of 60x33, which three halvings round."""
    folder = tiny_sdxl(tmp_path / "model", 5, refiner=refiner, channels=DEEP)
    image = random_image(480, 270, seed=1)
    requests = [Request(image, "a fox", 80, 7, "blurry", text_guidance=g, key=str(g)) for g in (0.0, 10.0)]
    assert_equals_diffusers(folder, requests, "euler", slots=1)


@pytest.mark.parametrize("size", [(72, 40), (104, 88)])
@pytest.mark.parametrize("make", [tiny_sd, tiny_sd2])
def test_latents_that_halvings_round(tmp_path, make, size):
    folder = make(tmp_path / "model", 6, channels=DEEP)
    assert_equals_diffusers(folder, requests_of([size], seed=40, levels=(50,)), "ddim")


@pytest.mark.parametrize(
    "settings",
    [
        {"settings": {"force_zeros_for_empty_prompt": False}},
        {"refiner": True, "settings": {"force_zeros_for_empty_prompt": True}},
        {"vae": {"latents_mean": [0.5, -1.0, 0.25, 0.0], "latents_std": [1.5, 0.5, 2.0, 1.0]}},
        {"vae": {"force_upcast": False, "scaling_factor": 0.5}},
    ],
    ids=["texts-for-empty", "zeros-for-empty", "latent-statistics", "scaling"],
)
def test_what_a_folder_of_sdxl_may_say(tmp_path, settings):
    folder = tiny_sdxl(tmp_path / "model", 8, **settings)
    assert_equals_diffusers(folder, requests_of([(64, 48)], seed=60, levels=(30,)), "euler")


@pytest.mark.parametrize("channels", [3, 8, 16])
def test_other_latent_channels(tmp_path, channels):
    folder = tiny_sd(tmp_path / "model", 9, latent_channels=channels)
    assert_equals_diffusers(folder, requests_of([(64, 48)], seed=80, levels=(30,)), "ddim")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_place_of_a_batch_computes_the_same_bits(tmp_path, two_threads, family):
    model = load_model(FAMILIES[family](tmp_path / "model", seed=5), torch.device("cpu"), torch.float32)
    condition = model.condition(model.encode_text("a cat", negative=False), 48, 72, 7.5, negative=False)
    for rows, latent in itertools.product((4, 12), ((8, 8), (6, 9))):
        batch = condition.zeros(rows)
        for row in range(rows):
            batch.put(row, condition)
        x = torch.randn(1, 4, *latent, generator=torch.Generator().manual_seed(rows)).repeat(rows, 1, 1, 1)
        with torch.no_grad():
            out = torch_denoiser(model)(x, torch.full((rows,), 500.0), batch)
        assert torch.equal(out, out[:1].expand_as(out))


@pytest.mark.parametrize("force_upcast", [True, False])
def test_a_vae_that_overflows_in_half(tmp_path, force_upcast):
    """Activations beyond 65504, as in the published VAE of SDXL: it runs in float32 if its configuration says so."""
    folder = tiny_sdxl(tmp_path / "model", 3, vae={"force_upcast": force_upcast})
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"decoder.conv_in.bias": torch.full((8,), 1e6)}, file)
    model = load_model(folder, torch.device("cpu"), torch.float16)
    autoencoder = Autoencoder(model, torch.device("cpu"), batch=2)
    with torch.no_grad():
        _, finite = autoencoder.decode(torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)))
    assert finite.tolist() == [force_upcast] * 2


def test_what_a_family_is_told_shows_in_its_pixels(tmp_path):
    """Without this, a wrong size, score or guidance could hide under the tolerance of the tests above."""
    base = load_pipeline(tiny_sdxl(tmp_path / "base", 3))
    refiner = load_pipeline(tiny_sdxl(tmp_path / "refiner", 3, refiner=True))
    lcm = load_pipeline(tiny_lcm(tmp_path / "lcm", 3), "ddim")
    request = Request(random_image(64, 64, seed=2), "a cat", 0, 5)
    for pipe, told in [
        (base, {"original_size": (72, 64)}),
        (base, {"negative_prompt": ""}),
        (refiner, {"aesthetic_score": 5.5}),
        (refiner, {"negative_aesthetic_score": 2.0}),
        (lcm, {"guidance_scale": 2.0}),
    ]:
        asked = {"prompt": "a cat", "image": request.rgb(), "strength": 1.0, "num_inference_steps": STEPS}
        ours = diffusers_image(pipe, request, STEPS, 7.5)
        rng = torch.Generator("cpu").manual_seed(request.noise_seed)
        theirs = np.asarray(pipe(**asked, **{"guidance_scale": 7.5, **told}, generator=rng).images[0])
        assert np.abs(ours.astype(int) - theirs).max() > 5, told
