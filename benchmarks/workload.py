"""Random-weight models in true architectures, and the requests that every contestant makes.

Random weights cost what trained ones cost. Every folder is written in the format that `from_pretrained` reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers import StableDiffusionImg2ImgPipeline as Img2Img
from diffusers import StableDiffusionXLImg2ImgPipeline as XLImg2Img
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import discl
from discl import Request
from tests.tiny import tiny_clip, tiny_tokenizer

LEVELS = (0, 10, 30, 50)
PROMPT = "a photo of a cat"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
# SDXL's and its refiner's published configs: https://huggingface.co/stabilityai (unet/config.json).
REFINER = {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2560,
    "sample_size": 128,
}
BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
VIT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}

VIT_B_32 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}


@dataclass(frozen=True)
class Workload:
    """A model folder and what is asked of it: images x seeds x levels at `size` (width, height)."""

    model: str
    steps: int
    text_guidance: float
    size: tuple[int, int]
    images: int
    seeds: int

    @property
    def settings(self) -> dict:
        return {"steps": self.steps, "text_guidance": self.text_guidance, "solver": "auto"}

    def write_model(self, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
        """A diffusers folder; one that is there already is taken as it is."""
        if (folder / "model_index.json").exists():  # written last
            return folder
        torch.manual_seed(0)
        pipe = MODELS[self.model](folder / "tokenizer-files")
        pipe.to(dtype).save_pretrained(folder)
        return folder

    def write_clip(self, folder: Path) -> Path:
        """An open_clip folder: ViT-B/32's architecture beside a network of true size, a tiny one beside a small one."""
        return tiny_clip(folder, config=VIT_B_32) if self.model in ("sd15", "sdxl-refiner") else tiny_clip(folder)

    def requests(self) -> list[Request]:
        """Sources of noise and gradients; sorted as a plan is: image, then seed, then level."""
        rng = np.random.default_rng(0)
        width, height = self.size
        sources = [
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(self.images)
        ]
        return [
            Request(image, PROMPT, level, noise_seed=1000 * i + seed)
            for i, image in enumerate(sources)
            for seed in range(self.seeds)
            for level in LEVELS
        ]


def _text(kind: type, tokenizer: CLIPTokenizer, **config) -> torch.nn.Module:
    special = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    return kind(CLIPTextConfig(**special, **config))


def small(tokenizer_files: Path) -> Img2Img:
    """0.8 M-parameter UNet over 8x8 latents (32x32 pixels): the shape of work, small enough for two cores."""
    tokenizer = tiny_tokenizer(tokenizer_files)
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
    text = _text(
        CLIPTextModel, tokenizer, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return _stable_diffusion(unet, _vae((16, 16, 16), layers=1, groups=8), text, tokenizer)


def sd15(tokenizer_files: Path) -> Img2Img:
    """Stable Diffusion 1.5: 860 M-parameter UNet, 8 pixels a cell."""
    tokenizer = tiny_tokenizer(tokenizer_files, length=77)
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
    return _stable_diffusion(unet, _vae((128, 256, 512, 512)), _text(CLIPTextModel, tokenizer, **VIT_L), tokenizer)


def sdxl_refiner(tokenizer_files: Path) -> XLImg2Img:
    """The paper's model: SDXL refiner 1.0, 2.3 G-parameter UNet, one text encoder."""
    return _refiner(tokenizer_files, REFINER, BIG_G, _vae((128, 256, 512, 512), scaling_factor=0.13025))


def small_refiner(tokenizer_files: Path) -> XLImg2Img:
    """The refiner's topology at a hundredth of its width: proves the scripts without a GPU."""
    width = {
        "block_out_channels": (16, 32, 32, 32),
        "attention_head_dim": (1, 2, 2, 2),
        "transformer_layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 72,
    }
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vae = _vae((16, 16, 16, 16), layers=1, groups=8)
    return _refiner(tokenizer_files, {**REFINER, **width}, {**BIG_G, **text, "projection_dim": 32}, vae)


def demo(tokenizer_files: Path) -> Img2Img:
    """The demo's own generator of digits."""
    return Img2Img.from_pretrained(Path(discl.__file__).parent / "demo" / "assets" / "generator", safety_checker=None)


MODELS: dict[str, Callable[[Path], Img2Img | XLImg2Img]] = {
    "demo": demo,
    "small": small,
    "sd15": sd15,
    "sdxl-refiner": sdxl_refiner,
    "small-refiner": small_refiner,
}


def _vae(channels: tuple[int, ...], layers: int = 2, groups: int = 32, **config) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=layers,
        latent_channels=4,
        norm_num_groups=groups,
        **config,
    )


def _stable_diffusion(unet, vae, text, tokenizer) -> Img2Img:
    return Img2Img(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _refiner(tokenizer_files: Path, unet: dict, text: dict, vae: AutoencoderKL) -> XLImg2Img:
    tokenizer = tiny_tokenizer(tokenizer_files, length=77)
    return XLImg2Img(
        vae=vae,
        text_encoder=None,
        text_encoder_2=_text(CLIPTextModelWithProjection, tokenizer, **text),
        tokenizer=None,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(**unet),
        scheduler=EulerDiscreteScheduler(**BETAS),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
