"""The name of a model -> the model: find its files, load, merge what is added to it, check, place on the device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from discl.engine.loading import one_at_a_time
from discl.engine.pretrained.checks import check_parts, warn_of_weights
from discl.engine.pretrained.digest import combined, model_digest
from discl.engine.pretrained.embeddings import add_embeddings, embedding_digest
from discl.engine.pretrained.families import family_of
from discl.engine.pretrained.files import WEIGHTED, ModelFiles, find_model
from discl.engine.pretrained.lora import lora_digest, merge_loras
from discl.engine.pretrained.model import DiffusionModel
from discl.engine.pretrained.modules import load_folder
from discl.engine.pretrained.single_file import load_single_file
from discl.engine.reproducible import make_rowwise
from discl.errors import ModelError


@one_at_a_time
def load_model(
    path: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    loras: Sequence[str] = (),
    embeddings: Sequence[str] = (),
) -> DiffusionModel:
    """Load a diffusers folder, `hub:organisation/name[@revision]`, or a .safetensors checkpoint in the original layout.

    loras: "file.safetensors", "folder" or "hub:id", each with ":weight" behind it or not; merged in this order.
    embeddings: textual inversions, "file.safetensors" with ":word" behind it or not.
    Raises ModelError for what cannot be loaded, whole, as a model that the engine can run.
    """
    if any(isinstance(names, str) or not isinstance(names, Sequence) for names in (loras, embeddings)):
        raise ModelError(f"loras={loras!r}, embeddings={embeddings!r}: give lists of paths")
    files = find_model(path)
    family = family_of(files)
    pipe = _load_pipeline(files, family.pipeline, torch.float32 if loras else dtype)
    add_embeddings(pipe, embeddings)
    merge_loras(pipe, loras)
    check_parts(pipe, files)
    for name in WEIGHTED:
        module = getattr(pipe, name, None)
        if module is not None:
            own = family.vae_dtype(pipe.vae.config, dtype) if name == "vae" else dtype
            torch.nn.Module.to(module, device, own).requires_grad_(False).eval()
    warn_of_weights(pipe, files)
    if device.type == "cpu":
        make_rowwise(pipe.unet)
        make_rowwise(pipe.vae)
    return family(
        pipe=pipe,
        device=device,
        dtype=dtype,
        digest=full_digest(files, loras, embeddings),
        reload=lambda other: load_model(path, device, other, loras, embeddings),
    )


def full_digest(files: ModelFiles, loras: Sequence[str], embeddings: Sequence[str]) -> str:
    """Of the model and what is added to it; the model's own where nothing is."""
    own = model_digest(files)
    if not loras and not embeddings:
        return own
    return combined([("model", own), ("loras", lora_digest(loras)), ("embeddings", embedding_digest(embeddings))])


def _load_pipeline(files: ModelFiles, pipeline: type, dtype: torch.dtype) -> Any:
    """The VAE always comes in float32, which some models need it in; sums of weights are float32 sums as well."""
    load = load_single_file if files.checkpoint else load_folder
    return load(files, pipeline, dict.fromkeys(WEIGHTED, dtype) | {"vae": torch.float32})
