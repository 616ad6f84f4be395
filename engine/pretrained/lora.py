"""Low-rank updates (Hu et al. 2021), merged into the weights at load, so that they cost nothing afterwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discl.engine.pretrained.digest import combined, file_digest
from discl.engine.pretrained.files import PICKLES, first_line, hub_folder
from discl.errors import ModelError

UPDATED = ("unet", "text_encoder", "text_encoder_2")
ADAPTER = "merged"
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Lora:
    """One file of low-rank updates and the factor they are added with."""

    file: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """ "file.safetensors", "folder" or "hub:id", with ":weight" behind it or not; ModelError for anything else."""
        name, _, weight = str(text).rpartition(":")
        try:
            factor = float(weight)
        except ValueError:
            name, factor = str(text), 1.0
        if not math.isfinite(factor):
            raise ModelError(f"LoRA {text}: its weight must be a finite number")
        return cls(_weights_file(name or str(text)), factor)


def lora_digest(loras: Sequence[str]) -> str:
    """32 hex characters over bytes, weights and order of the files; of nothing, the empty string."""
    found = [Lora.parse(text) for text in loras]
    return combined((file_digest(lora.file), lora.weight) for lora in found) if found else ""


def merge_loras(pipe: Any, loras: Sequence[str]) -> None:
    """Add every update to the weights of diffusers' pipeline, in order; ModelError for one that does not fit."""
    for lora in [Lora.parse(text) for text in loras]:
        _merge(pipe, lora)


def _merge(pipe: Any, lora: Lora) -> None:
    from discl.engine.pretrained.modules import UNLOADABLE, quiet

    source = {"weight_name": lora.file.name, "use_safetensors": True, "local_files_only": True}
    components = [name for name in UPDATED if getattr(pipe, name, None) is not None]
    try:
        with quiet(warnings=False):
            updates, *_ = pipe.lora_state_dict(str(lora.file.parent), unet_config=pipe.unet.config, **source)
            pipe.load_lora_weights(str(lora.file.parent), adapter_name=ADAPTER, **source)
            _check_whole(updates, [getattr(pipe, name) for name in components], lora)
            pipe.fuse_lora(components=components, lora_scale=lora.weight, safe_fusing=True, adapter_names=[ADAPTER])
            pipe.unload_lora_weights()
    except (*UNLOADABLE, ImportError) as error:
        raise ModelError(
            f"LoRA {lora.file} cannot be merged into this model: {first_line(error)}; "
            "is it of another family or format?"
        ) from error


def _check_whole(updates: dict[str, Any], modules: list[Any], lora: Lora) -> None:
    """Every update must have found its layer: diffusers leaves the others out with a log line."""
    given = [name for name in updates if "alpha" not in name.rsplit(".", 1)[-1] and "dora_scale" not in name]
    used = sum("lora_" in name for module in modules for name, _ in module.named_parameters())
    if not given or used < len(given):
        raise ModelError(
            f"LoRA {lora.file} has {len(given)} updates and {used} of them fit this model: "
            "it is of another family or format"
        )


def _weights_file(name: str) -> Path:
    path = hub_folder(name, ["*.safetensors"]) if name.startswith("hub:") else Path(name)
    if path.suffix in PICKLES:
        raise ModelError(f"LoRA {path} is a pickle, which is never loaded: convert it to safetensors")
    if path.is_dir():
        return _only_file(path)
    if not path.is_file() or path.suffix != ".safetensors":
        raise ModelError(
            f"LoRA {path} is neither a folder nor a .safetensors file: give either, as path or path:weight"
        )
    return path


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    named = [file for file in files if file.name == DIFFUSERS_NAME]
    if len(named or files) != 1:
        raise ModelError(f"LoRA folder {folder} has {len(files)} .safetensors files: give the one to merge")
    return (named or files)[0]
