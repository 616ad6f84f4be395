"""Engine throughput: exact fp32 img2img of whole spectra.

Timed: from the first request to the last uint8 image, model loaded, no CLIP, nothing written.
Peers: `diffusers`, its img2img pipeline called once per (image, level, seed) as the reference code does; and the
ceiling `bare loop`, a compiled UNet at the engine's own batch that does the same number of evaluations with the same
encodes and decodes, and nothing else. Warm-up and compilation come before the rounds and are reported apart.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from PIL import Image

from benchmarks.timing import interleave, record, seconds
from discl import Engine, Request
from tests.tiny import tiny_sd

LEVELS, STEPS, GUIDANCE = (0, 10, 30, 50), 20, 7.5


def benchmark_model(folder: Path) -> Path:
    """A Stable Diffusion 1.x folder with a 0.8 M-parameter UNet over 8x8 latents (32x32 pixels), random weights."""
    tiny_sd(folder, seed=0, vae_levels=3)
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
        sample_size=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    del pipe
    return folder


def spectrum(images: int, seeds: int) -> list[Request]:
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(images)]
    return [
        Request(image, "a photo of a cat", level, noise_seed=1000 * i + seed)
        for i, image in enumerate(sources)
        for seed in range(seeds)
        for level in LEVELS
    ]


def diffusers_loop(folder: Path, requests: list[Request]) -> Callable[[], float]:
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def run() -> None:
        for request in requests:
            pipe(
                prompt=request.prompt,
                image=request.rgb(),
                strength=(STEPS * (100 - request.level) // 100 + 0.5) / STEPS if request.level else 1.0,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=torch.Generator("cpu").manual_seed(request.noise_seed),
            )

    return lambda: len(requests) / seconds(run)


def bare_loop(engine: Engine, requests: list[Request]) -> Callable[[], float]:
    """The engine's evaluations (at perfect occupancy), encodes and decodes as bare calls at the same batches."""
    unet, vae, slots, decode_batch = (
        engine.model.unet,
        engine.model.vae,
        engine.slots,
        engine._autoencoder.batch,
    )
    forward = torch.compile(lambda x, t, c: unet(x, t, encoder_hidden_states=c, return_dict=False)[0], dynamic=False)
    x, t = torch.randn(2 * slots, 4, 8, 8), torch.full((2 * slots,), 500.0)
    states = torch.randn(2 * slots, 16, 16)
    pixels, latents = torch.randn(1, 3, 32, 32), torch.randn(decode_batch, 4, 8, 8)
    steps = -(-sum(STEPS * (100 - request.level) // 100 for request in requests) // slots)
    sources = len({id(request.image) for request in requests})

    def run() -> None:
        with torch.no_grad():
            for _ in range(sources):
                vae.encode(pixels)
            for _ in range(steps):
                forward(x, t, states)
            for _ in range(-(-len(requests) // decode_batch)):
                vae.decode(latents)

    return lambda: len(requests) / seconds(run)


def engine_run(engine: Engine, requests: list[Request]) -> Callable[[], float]:
    return lambda: len(requests) / seconds(lambda: list(engine.run(requests)))


def run(small: bool = False) -> dict:
    images, repeats = (1, 2) if small else (16, 5)
    slots = 4 if small else 16
    requests = spectrum(images, seeds=1 if small else 4)
    with tempfile.TemporaryDirectory() as folder:
        model = benchmark_model(Path(folder) / "model")
        settings = {"slots": slots, "solver": "ddim", "steps": STEPS, "text_guidance": GUIDANCE}
        eager = Engine.from_pretrained(model, **settings)
        compiled = Engine.from_pretrained(model, backend="torch-compile", **settings)
        contestants = {
            "diffusers, one call each": diffusers_loop(model, requests if small else requests[::13]),
            "engine, eager": engine_run(eager, requests),
            "engine, torch.compile": engine_run(compiled, requests),
            "bare compiled loop": bare_loop(compiled, requests),
        }
        warm_up = {name: seconds(contestant) for name, contestant in contestants.items()}
        rates = interleave(contestants, repeats)
    print("warm-up seconds:", {name: round(value, 1) for name, value in warm_up.items()})
    return record(
        "engine",
        rates,
        "images/s",
        {
            "eager / diffusers": ("engine, eager", "diffusers, one call each"),
            "compiled / diffusers": ("engine, torch.compile", "diffusers, one call each"),
            "compiled / bare loop": ("engine, torch.compile", "bare compiled loop"),
        },
        keep=not small,
        levels=LEVELS,
        requests=len(requests),
        unet_parameters=sum(p.numel() for p in compiled.model.unet.parameters()),
        occupancy=round(compiled.stats.slot_occupancy, 4),
        warm_up_seconds=warm_up,
        engine_seconds={name: round(value, 2) for name, value in compiled.stats.seconds.items()},
        **settings,
    )
