"""The families of models and what each wants to be told; which pipelines belong to which family."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline

from discl.engine.pretrained.files import ModelFiles
from discl.engine.pretrained.model import DiffusionModel
from discl.engine.text import Text
from discl.errors import ModelError

# diffusers' defaults for img2img: the score that the refiner is asked for, and the one it is asked to avoid.
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


class StableDiffusion(DiffusionModel):
    """Stable Diffusion 1.x and 2.x, their Turbo and LCM distillations: one text encoder, states only."""

    pipeline = StableDiffusionImg2ImgPipeline
    required = ("unet", "vae", "scheduler", "text_encoder", "tokenizer")

    @torch.no_grad()
    def encode_text(self, text: str, negative: bool) -> Text:
        states, _ = self.pipe.encode_prompt(text, self.device, 1, False)
        return Text(states[0].to(self.dtype))


class StableDiffusionXL(DiffusionModel):
    """SDXL base, refiner and Turbo: one or two text encoders, pooled text and micro-conditioning."""

    pipeline = StableDiffusionXLImg2ImgPipeline
    required = ("unet", "vae", "scheduler", "text_encoder_2", "tokenizer_2")

    @classmethod
    def vae_dtype(cls, config: Any, dtype: torch.dtype) -> torch.dtype:
        """float16 overflows in the published VAE, which says so by force_upcast."""
        return torch.float32 if dtype == torch.float16 and config.force_upcast else dtype

    @property
    def latent_statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        mean, std = (getattr(self.vae.config, name, None) for name in ("latents_mean", "latents_std"))
        return None if mean is None or std is None else (mean, std)

    @torch.no_grad()
    def encode_text(self, text: str, negative: bool) -> Text:
        """An empty negative prompt counts as none given: zeros, where the model was trained so."""
        states, _, pooled, _ = self.pipe.encode_prompt(
            text, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        encoded = Text(states[0].to(self.dtype), pooled[0].to(self.dtype))
        if negative and not text and self.pipe.config.force_zeros_for_empty_prompt:
            return Text(*(torch.zeros_like(part) for part in encoded))
        return encoded

    def time_ids(self, height: int, width: int, negative: bool) -> list[float]:
        """Original size and crop corner, then the refiner's aesthetic score or the base model's target size."""
        ids = [height, width, 0, 0]
        if not self.pipe.config.requires_aesthetics_score:
            return [*ids, height, width]
        return [*ids, NEGATIVE_AESTHETIC_SCORE if negative else AESTHETIC_SCORE]


FAMILIES: dict[str, type[DiffusionModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionImg2ImgPipeline": StableDiffusion,
    "LatentConsistencyModelPipeline": StableDiffusion,
    "LatentConsistencyModelImg2ImgPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXL,
}


def family_of(files: ModelFiles) -> type[DiffusionModel]:
    """By the pipeline class that model_index.json names; ModelError for any other kind of pipeline."""
    if files.pipeline_class not in FAMILIES:
        raise ModelError(
            f"model {files.name} is a {files.pipeline_class}: give a Stable Diffusion 1.x, 2.x, SDXL or LCM model "
            f"({', '.join(FAMILIES)})"
        )
    family = FAMILIES[files.pipeline_class]
    missing = [name for name in family.required if name not in files.parts]
    if missing:
        raise ModelError(f"model {files.name} has no {', '.join(missing)}: a {files.pipeline_class} needs them")
    return family
