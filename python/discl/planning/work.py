"""A model's configuration in, FLOPs of one evaluation, encoding, decoding and scoring out. No weights are loaded."""

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from discl.config import RunConfig

if TYPE_CHECKING:
    from discl.engine.pretrained.files import ModelFiles


class Flops(NamedTuple):
    """Of one row, counting a multiply-add as two. score is 0 where nothing is scored."""

    evaluation: float
    encode: float
    decode: float
    score: float


def flops_of(config: RunConfig, files: "ModelFiles", size: tuple[int, int]) -> Flops:
    """At this size of image in pixels (width, height), rounded down to what the decoder makes."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae_config, unet_config = _read(files, "vae"), _read(files, "unet")
    with torch.device("meta"):
        vae, unet = AutoencoderKL.from_config(vae_config), UNet2DConditionModel.from_config(unet_config)
        scale = 2 ** (len(vae_config["block_out_channels"]) - 1)
        width, height = (max(1, side // scale) for side in size)
        latent = torch.zeros(1, vae_config["latent_channels"], height, width)
        image = torch.zeros(1, 3, height * scale, width * scale)
        return Flops(
            _count(lambda: unet(_channels(latent, unet_config), 1, *_condition(unet_config))),
            _count(lambda: vae.encode(image)),
            _count(lambda: vae.decode(latent)),
            _scorer(config),
        )


def _read(files: "ModelFiles", part: str) -> dict[str, Any]:
    return json.loads((files.folder / part / "config.json").read_text(encoding="utf-8"))


def _channels(latent, unet_config: dict[str, Any]):
    return latent.new_zeros(1, unet_config["in_channels"], *latent.shape[2:])


def _condition(unet_config: dict[str, Any]) -> list:
    """The text of 77 tokens, and SDXL's pooled text and sizes."""
    import torch

    text = torch.zeros(1, 77, unet_config["cross_attention_dim"])
    if unet_config.get("addition_embed_type") != "text_time":
        return [text]
    ids = 5 if unet_config["projection_class_embeddings_input_dim"] == 2560 else 6
    pooled = unet_config["projection_class_embeddings_input_dim"] - ids * unet_config["addition_time_embed_dim"]
    added = {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, ids)}
    return [text, None, None, None, None, added]


def _count(call) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def _scorer(config: RunConfig) -> float:
    """CLIP's image tower, where open_clip knows the name as a vision transformer; else 0."""
    if config.score is None:
        return 0.0
    import open_clip

    settings = open_clip.get_model_config(config.score.clip.partition(":")[0])
    vision = (settings or {}).get("vision_cfg") or {}
    if not isinstance(vision.get("layers"), int) or "patch_size" not in vision:
        return 0.0
    tokens, width = (vision["image_size"] // vision["patch_size"]) ** 2 + 1, vision["width"]
    return 2.0 * vision["layers"] * tokens * (12 * width**2 + 2 * tokens * width)
