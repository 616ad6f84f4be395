"""A diffusers folder -> one checkpoint in the layout that Stable Diffusion was first published in (CompVis, Stability).

Written from the names in the original repositories' modules, for models of one residual layer per block.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
LAST_NORM = "text_model.final_layer_norm.weight"
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def save_single_file(folder: Path, file: Path) -> Path:
    """All of a tiny folder's weights; its configuration is copied to a folder of the same name beside the file."""
    parts = {name: load_file(next((folder / name).glob("*.safetensors"))) for name in _weighted(folder)}
    levels = len(json.loads((folder / "unet/config.json").read_text())["block_out_channels"])
    vae_levels = len(json.loads((folder / "vae/config.json").read_text())["block_out_channels"])
    tensors = {f"model.diffusion_model.{_unet(name, levels)}": value for name, value in parts["unet"].items()}
    tensors |= {f"first_stage_model.{_vae(name, vae_levels)}": value for name, value in _squares(parts["vae"]).items()}
    tensors |= _texts(parts, version_2="text_encoder_2" not in parts and _activation(folder) == "gelu")
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    for source in folder.rglob("*"):
        if source.is_file() and source.suffix != ".safetensors":
            target = file.with_suffix("") / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return file


def _weighted(folder: Path) -> list[str]:
    return [part.name for part in folder.iterdir() if list(part.glob("*.safetensors"))]


def _activation(folder: Path) -> str:
    return json.loads((folder / "text_encoder/config.json").read_text())["hidden_act"]


def _unet(name: str, levels: int) -> str:
    for end, original in UNET_ENDS.items():
        if name.startswith(f"{end}."):
            return original + name.removeprefix(end)
    name = re.sub(r"(resnets\.\d+)\.(\w+)", lambda m: f"{m[1]}.{RESNET[m[2]]}", name)
    name = name.replace("mid_block.resnets.0", "middle_block.0").replace("mid_block.resnets.1", "middle_block.2")
    name = name.replace("mid_block.attentions.0", "middle_block.1")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.0", lambda m: f"input_blocks.{1 + 2 * int(m[1])}.0", name)
    name = re.sub(r"down_blocks\.(\d)\.attentions\.0", lambda m: f"input_blocks.{1 + 2 * int(m[1])}.1", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 + 2 * int(m[1])}.0.op", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0", name)
    name = re.sub(r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1", name)
    # The first up block has no attention, so that its upsampler stands second.
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"output_blocks.{2 * int(m[1]) + 1}.{2 if int(m[1]) else 1}", name
    )


def _squares(vae: Weights) -> Weights:
    """Attention's projections were 1x1 convolutions."""
    square = re.compile(r"attentions\.0\.to_\w+(\.0)?\.weight")
    return {name: value[:, :, None, None] if square.search(name) else value for name, value in vae.items()}


def _vae(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(
        r"mid_block\.attentions\.0\.(group_norm|to_out\.0|to_\w)", lambda m: f"mid.attn_1.{VAE_ATTENTION[m[1]]}", name
    )
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)


def _texts(parts: dict[str, Weights], version_2: bool) -> Weights:
    """The first encoder keeps its names; SDXL's second, which is the refiner's only one, and 2.x's have open_clip's."""
    first, second = parts.get("text_encoder"), parts.get("text_encoder_2")
    if version_2:
        first = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in first.items()}
        return {f"cond_stage_model.model.{name}": value for name, value in _open_clip(first).items()}
    where = "cond_stage_model" if second is None else "conditioner.embedders.0"
    tensors = {}
    for name, value in (first or {}).items():
        tensors[f"{where}.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    if second is not None:
        prefix = f"conditioner.embedders.{1 if first else 0}.model"
        tensors |= {f"{prefix}.{name}": value for name, value in _open_clip(second).items()}
    return tensors


def _open_clip(weights: Weights) -> Weights:
    tensors = {
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "ln_final.weight": weights[LAST_NORM],
        "ln_final.bias": weights["text_model.final_layer_norm.bias"],
        "text_projection": weights.get("text_projection.weight", torch.eye(len(weights[LAST_NORM]))).T,
    }
    layers = {name: value for name, value in weights.items() if ".layers." in name}
    for name, value in layers.items():
        target = name.replace("text_model.encoder.layers.", "transformer.resblocks.")
        for ours, original in OPEN_CLIP.items():
            target = target.replace(f".{ours}.", f".{original}.")
        if ".q_proj." in name:
            three = [layers[name.replace(".q_proj.", f".{which}_proj.")] for which in "qkv"]
            tensors[re.sub(r"q_proj\.(\w+)", r"in_proj_\1", target)] = torch.cat(three)
        elif ".k_proj." not in name and ".v_proj." not in name:
            tensors[target] = value
    return tensors
