"""Random-weight models in the true on-disk formats, a few thousand parameters each, made by the tests."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORD_END = "</w>"
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "lcm": LCMScheduler,
}
LOUD = 3.0  # factor that makes a wrong text, size or guidance visible, and rounding not
# The layers that texts, sizes and guidance come in by: freshly drawn ones barely change a pixel.
CONDITIONED = ("attn2.to_k", "attn2.to_q", "attn2.to_v", "attn2.to_out", "add_embedding", "cond_proj")


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in CLIP's byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = {**{byte: byte for byte in printable}, **{byte: 256 + i for i, byte in enumerate(others)}}
    return [chr(codes[byte]) for byte in range(256)]


def tiny_tokenizer(folder: Path, length: int = 16, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer without merges: one token a byte, so any text is legal."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(char + WORD_END for char in alphabet), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizer(*files, model_max_length=length, pad_token=pad)


def tiny_text_encoder(tokenizer: CLIPTokenizer, width: int = 16, cls: type = CLIPTextModel, **config: Any) -> Any:
    return cls(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **{"intermediate_size": 2 * width, "projection_dim": width, **config},
        )
    )


def tiny_vae(levels: int = 4, latent_channels: int = 4, **config: Any) -> AutoencoderKL:
    """Pixels are 2**(levels-1) times the latent."""
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
        **config,
    )


def tiny_unet(channels: tuple[int, ...] = (16, 32), width: int = 16, loudness: float = 1.0, **config: Any) -> Any:
    """width: of the text states. Halves the latent len(channels)-1 times."""
    unet = UNet2DConditionModel(
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
        layers_per_block=1,
        cross_attention_dim=width,
        norm_num_groups=8,
        sample_size=8,
        **{"attention_head_dim": 8, **config},
    )
    for name, weight in unet.named_parameters():
        if any(layer in name for layer in CONDITIONED):
            weight.data *= loudness
    return unet


def tiny_scheduler(scheduler: str, prediction: str = "epsilon", **config: Any) -> Any:
    defaults = {"clip_sample": False, "set_alpha_to_one": False} if scheduler == "ddim" else {}
    return SCHEDULERS[scheduler](
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        **{"steps_offset": 1, "timestep_spacing": "leading", **defaults, **config},
    )


def tiny_sd(
    folder: str | Path,
    seed: int = 0,
    *,
    scheduler: str = "ddim",
    prediction: str = "epsilon",
    vae_levels: int = 4,
    channels: tuple[int, ...] = (16, 32),
    latent_channels: int = 4,
    pipeline: type = StableDiffusionImg2ImgPipeline,
    unet: dict | None = None,
    text: dict | None = None,
    pad: str = "<|endoftext|>",
    **scheduler_config: Any,
) -> Path:
    """A Stable Diffusion 1.x folder with random weights; the other families are its variations."""
    folder = Path(folder)
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder / "tokenizer", pad=pad)
    latents = {"in_channels": latent_channels, "out_channels": latent_channels}
    pipeline(
        text_encoder=tiny_text_encoder(tokenizer, **(text or {})),
        vae=tiny_vae(vae_levels, latent_channels),
        tokenizer=tokenizer,
        unet=tiny_unet(channels, **{**latents, **(unet or {})}),
        scheduler=tiny_scheduler(scheduler, prediction, **scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_sd2(folder: str | Path, seed: int = 0, *, channels: tuple[int, ...] = (16, 32), **options: Any) -> Path:
    """Stable Diffusion 2.x: OpenCLIP texts (GELU, "!" pads), linear projections, heads by level, v prediction."""
    unet = {"loudness": LOUD, "use_linear_projection": True, "upcast_attention": True}
    unet["attention_head_dim"] = tuple(width // 8 for width in channels)
    defaults = {"prediction": "v_prediction", "pipeline": StableDiffusionPipeline, "pad": "!"}
    return tiny_sd(folder, seed, channels=channels, unet=unet, text={"hidden_act": "gelu"}, **{**defaults, **options})


def tiny_sd_turbo(folder: str | Path, seed: int = 0) -> Path:
    """SD-Turbo: the 2.x architecture with epsilon prediction on a trailing Euler schedule."""
    return tiny_sd2(folder, seed, prediction="epsilon", scheduler="euler", timestep_spacing="trailing")


def tiny_lcm(folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """A latent consistency model: Stable Diffusion 1.x whose UNet is told the guidance scale."""
    defaults = {
        "scheduler": "lcm",
        "pipeline": LatentConsistencyModelPipeline,
        "unet": {"loudness": 3 * LOUD, "time_cond_proj_dim": 12},
    }
    return tiny_sd(folder, seed, **{**defaults, **options})


def tiny_sdxl(
    folder: str | Path,
    seed: int = 0,
    *,
    refiner: bool = False,
    scheduler: str = "euler",
    channels: tuple[int, ...] = (16, 32),
    vae: dict | None = None,
    settings: dict | None = None,
    **scheduler_config: Any,
) -> Path:
    """SDXL base, or the refiner, which has the second text encoder only and is told an aesthetic score."""
    folder = Path(folder)
    torch.manual_seed(seed)
    tokenizer_2 = tiny_tokenizer(folder / "tokenizer_2", pad="!")
    encoder_2 = tiny_text_encoder(tokenizer_2, 24, CLIPTextModelWithProjection, projection_dim=20, hidden_act="gelu")
    tokenizer = None if refiner else tiny_tokenizer(folder / "tokenizer")
    encoder = None if refiner else tiny_text_encoder(tokenizer)
    ids, id_width = (5 if refiner else 6), 8
    unet = tiny_unet(
        channels,
        width=24 if refiner else 16 + 24,
        loudness=LOUD,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=id_width,
        projection_class_embeddings_input_dim=20 + ids * id_width,
    )
    flags = {"force_zeros_for_empty_prompt": not refiner, **({"requires_aesthetics_score": True} if refiner else {})}
    pipeline: Any = StableDiffusionXLImg2ImgPipeline if refiner else StableDiffusionXLPipeline
    pipeline(
        vae=tiny_vae(**{"scaling_factor": 0.13025, "force_upcast": True, **(vae or {})}),
        text_encoder=encoder,
        text_encoder_2=encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=tiny_scheduler(scheduler, **scheduler_config),
        add_watermarker=False,
        **{**flags, **(settings or {})},
    ).save_pretrained(folder)
    return folder


def tiny_sdxl_turbo(folder: str | Path, seed: int = 0) -> Path:
    """SDXL-Turbo: the base architecture on a trailing ancestral Euler schedule."""
    return tiny_sdxl(folder, seed, scheduler="euler-ancestral", timestep_spacing="trailing")


def tiny_clip(folder: str | Path, seed: int = 0, *, size: int = 32, config: dict | None = None) -> Path:
    """An open_clip folder (its `local-dir:` form) with random weights; config: model_cfg of a larger one."""
    import open_clip
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model_cfg = config or {
        "embed_dim": 32,
        "vision_cfg": {"image_size": size, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocess = {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    torch.manual_seed(seed)
    model = open_clip.CLIP(**model_cfg)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
