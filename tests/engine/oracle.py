"""diffusers' own img2img pipeline, one request at a time: the judge of exact mode."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from discl import Request

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "lcm": LCMScheduler,
}


def load_pipeline(folder: str | Path, solver: str = "auto", **options: Any) -> Any:
    """The img2img pipeline of a folder's family; solver "auto" leaves its own scheduler."""
    extended = "XL" in json.loads((Path(folder) / "model_index.json").read_text())["_class_name"]
    cls: Any = StableDiffusionXLImg2ImgPipeline if extended else StableDiffusionImg2ImgPipeline
    without = {"add_watermarker": False} if extended else {"safety_checker": None, "requires_safety_checker": False}
    pipe = cls.from_pretrained(folder, **without, **options)
    pipe.set_progress_bar_config(disable=True)
    if solver != "auto":
        pipe.scheduler = SCHEDULERS[solver].from_config(pipe.scheduler.config)
    return pipe


def diffusers_image(pipe: Any, request: Request, steps: int, guidance: float, **options: Any) -> np.ndarray:
    """uint8 [H, W, 3]. Strength is (executed + 0.5)/steps because the pipeline floors a float."""
    executed = steps * (100 - request.level) // 100
    image = pipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,  # an empty one counts as none given
        image=request.rgb(),
        strength=(executed + 0.5) / steps if executed < steps else 1.0,
        num_inference_steps=steps,
        guidance_scale=guidance if request.text_guidance is None else request.text_guidance,
        generator=torch.Generator("cpu").manual_seed(request.noise_seed),
        output_type="pil",
        **options,
    ).images[0]
    return np.asarray(image)


def random_image(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours plus noise, so that both low and high frequencies matter."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(coarse, np.int16) + rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def assert_close_pixels(ours: np.ndarray, theirs: np.ndarray, largest: int = 2, mean: float = 0.1) -> None:
    """The contract of exact mode: max |difference| <= 2/255 and mean <= 0.1/255."""
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.int16) - theirs.astype(np.int16))
    assert difference.max() <= largest, f"max |difference| {difference.max()}/255"
    assert difference.mean() <= mean, f"mean |difference| {difference.mean():.3f}/255"
