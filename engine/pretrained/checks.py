"""Parts that were loaded one by one: do they make a model that the engine can run?"""

import logging
import math
from typing import Any

import torch

from discl.engine.pretrained.files import WEIGHTED, ModelFiles
from discl.errors import ModelError

log = logging.getLogger(__name__)

# UNet inputs beside latent, timestep, text and what SDXL adds: each belongs to another kind of pipeline.
FOREIGN_INPUTS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")


def check_parts(pipe: Any, files: ModelFiles) -> None:
    """ModelError for another kind of model under a known name, and for parts that do not fit together."""
    for check in (_kind, _texts, _widths, _scale):
        if complaint := check(pipe):
            raise ModelError(f"model {files.name}: {complaint}")


def _kind(pipe: Any) -> str | None:
    """Whether the network takes what a text-to-image or img2img model takes, and gives what it gives."""
    unet, latent = pipe.unet.config, pipe.vae.config.latent_channels
    if unet.in_channels != latent:
        return (
            f"its UNet takes {unet.in_channels} channels, its VAE makes {latent}: inpainting, depth, upscaling and "
            "editing models are not supported"
        )
    if unet.out_channels != latent:
        return f"its UNet gives {unet.out_channels} channels, not {latent}: learned variances are not supported"
    foreign = [name for name in FOREIGN_INPUTS if getattr(unet, name, None) is not None]
    if foreign:
        return f"its UNet has {foreign[0]}={getattr(unet, foreign[0])!r}, an input that img2img has nothing for"
    return None


def _texts(pipe: Any) -> str | None:
    """Whether every tokenizer speaks to an encoder that knows its words and its length."""
    for tokenizer, encoder in text_parts(pipe):
        if tokenizer is None or encoder is None:
            return "it has no text encoder for its prompts, or no tokenizer"
        if tokenizer.model_max_length > encoder.config.max_position_embeddings:
            return (
                f"its tokenizer makes {tokenizer.model_max_length} tokens, its text encoder reads "
                f"{encoder.config.max_position_embeddings}"
            )
        words = encoder.get_input_embeddings().num_embeddings
        if len(tokenizer) > words:
            return f"its tokenizer has {len(tokenizer)} words, its text encoder knows {words}"
    return None


def text_parts(pipe: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder) as the pipeline pairs them: the first pair may be missing from SDXL as a whole."""
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    if hasattr(pipe, "text_encoder_2"):
        first = [] if pipe.text_encoder is None else pairs
        return [*first, (pipe.tokenizer_2, pipe.text_encoder_2)]
    return pairs


def _widths(pipe: Any) -> str | None:
    """Whether the network reads what the text encoders write."""
    unet = pipe.unet.config
    states = sum(encoder.config.hidden_size for _, encoder in text_parts(pipe))
    widths = unet.cross_attention_dim
    for width in widths if isinstance(widths, (tuple, list)) else [widths]:
        if width != states:
            return f"its UNet reads text states of width {width}, its text encoders make {states}"
    extended = hasattr(pipe, "text_encoder_2")
    if (unet.addition_embed_type == "text_time") != extended or unet.addition_embed_type not in (None, "text_time"):
        return (
            f"its UNet has addition_embed_type={unet.addition_embed_type!r}, which does not go with its pipeline class"
        )
    if not extended:
        return None
    ids = 5 if pipe.config.requires_aesthetics_score else 6
    made = ids * unet.addition_time_embed_dim + pipe.text_encoder_2.config.projection_dim
    if made != unet.projection_class_embeddings_input_dim:
        return (
            f"its UNet reads {unet.projection_class_embeddings_input_dim} numbers of pooled text and sizes, its text "
            f"encoder and {ids} sizes make {made}: requires_aesthetics_score in model_index.json may be wrong"
        )
    return None


def _scale(pipe: Any) -> str | None:
    """Whether latents have the factor between what the VAE makes and what the UNet reads."""
    factor = pipe.vae.config.scaling_factor
    if isinstance(factor, int | float) and not isinstance(factor, bool) and math.isfinite(factor) and factor:
        return None
    return f"its VAE has scaling_factor={factor!r}, which is no number to multiply latents by"


def warn_of_weights(pipe: Any, files: ModelFiles) -> None:
    """Says of each part which weight is NaN or infinite in the dtype that it runs in; its samples end as `nan`.

    A warning: what float16 cannot hold may come right when a sample is made again in float32.
    """
    for part in WEIGHTED:
        module = getattr(pipe, part, None)
        for name, weight in module.named_parameters() if module else ():
            if not _finite(weight.detach().flatten()):
                log.warning(
                    "model %s: %s.%s holds NaN or infinity in %s: expect samples of status nan; the file is damaged, "
                    "its training had diverged, or its weights need another model.dtype",
                    files.name, part, name, str(weight.dtype).removeprefix("torch."),
                )  # fmt: skip
                break


def _finite(values: torch.Tensor) -> bool:
    # Squares cannot cancel, so a finite sum of them is proof, at a tenth of the time that looking at each takes.
    return bool(values.dot(values).isfinite()) or bool(values.isfinite().all())
