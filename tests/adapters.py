"""Random LoRA and textual-inversion files in the formats that people share."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]


def save_lora(pipe: Any, folder: str | Path, seed: int, rank: int = 4, text: bool = True) -> Path:
    """diffusers' own format, for the UNet and (if `text`) every text encoder of a pipeline, which is spent on it."""
    torch.manual_seed(seed)
    layers = {"unet_lora_layers": _random_layers(pipe.unet, [*ATTENTION, "conv1"], rank)}
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, name, None)
        if text and encoder is not None:
            layers[f"{name}_lora_layers"] = _random_layers(encoder, TEXT_ATTENTION, rank)
    pipe.save_lora_weights(str(folder), **layers)
    return Path(folder)


def save_kohya_lora(file: str | Path, updates: dict[str, tuple[torch.Tensor, torch.Tensor, float]]) -> Path:
    """kohya's format: {layer with underscores: (up [out, r], down [r, in], alpha)}."""
    tensors = {}
    for layer, (up, down, alpha) in updates.items():
        tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
        tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    save_file(tensors, file)
    return Path(file)


def save_embedding(file: str | Path, vectors: dict[str, torch.Tensor]) -> Path:
    save_file({name: value.contiguous() for name, value in vectors.items()}, file)
    return Path(file)


def _random_layers(module: Any, targets: list[str], rank: int) -> dict[str, torch.Tensor]:
    """Low-rank updates as diffusers' training scripts save them."""
    module.add_adapter(LoraConfig(r=rank, target_modules=targets))
    return {name: 0.2 * torch.randn_like(value) for name, value in get_peft_model_state_dict(module).items()}
