"""Random-weight models in the true on-disk formats, a few thousand parameters each, made by the tests."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers import StableDiffusionImg2ImgPipeline as Img2Img
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORD_END = "</w>"
SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in CLIP's byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = {**{byte: byte for byte in printable}, **{byte: 256 + i for i, byte in enumerate(others)}}
    return [chr(codes[byte]) for byte in range(256)]


def tiny_tokenizer(folder: Path, length: int = 16) -> CLIPTokenizer:
    """A CLIP tokenizer without merges: one token a byte, so any text is legal."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(char + WORD_END for char in alphabet), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def tiny_sd(
    folder: str | Path,
    seed: int = 0,
    *,
    scheduler: str = "ddim",
    prediction: str = "epsilon",
    vae_levels: int = 4,
    channels: tuple[int, ...] = (16, 32),
    **scheduler_config,
) -> Path:
    """A Stable Diffusion 1.x folder with random weights: pixels are 2**(vae_levels-1) times the latent."""
    folder = Path(folder)
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(8,) * vae_levels,
        down_block_types=("DownEncoderBlock2D",) * vae_levels,
        up_block_types=("UpDecoderBlock2D",) * vae_levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )
    unet = UNet2DConditionModel(
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
        sample_size=8,
    )
    defaults = {"clip_sample": False, "set_alpha_to_one": False} if scheduler == "ddim" else {}
    schedule = SCHEDULERS[scheduler](
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        prediction_type=prediction,
        **{"timestep_spacing": "leading", **defaults, **scheduler_config},
    )
    Img2Img(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_clip(folder: str | Path, seed: int = 0, *, size: int = 32) -> Path:
    """An open_clip folder (its `local-dir:` form) with random weights."""
    import open_clip
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model_cfg = {
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
