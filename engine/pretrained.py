"""Model folder -> the modules the engine runs. The only file that touches diffusers' pipelines.

Every folder that diffusers' `from_pretrained` reads is read by that same code; nothing is loaded from pickle.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from discl.engine.condition import Condition
from discl.engine.reproducible import make_rowwise
from discl.engine.text import Text
from discl.errors import ModelError

log = logging.getLogger(__name__)

PIPELINES = {"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"}
UNUSED = {"safety_checker", "feature_extractor"}  # never loaded, so no part of the model's identity


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A loaded latent-diffusion model.

    unet, vae: torch modules in eval mode. image_processor: diffusers' own (PIL <-> [-1, 1]). multiple: pixels per
    latent cell. digest: of every file that shapes pixels.
    """

    unet: torch.nn.Module
    vae: torch.nn.Module
    image_processor: Any
    scheduler_class: str
    scheduler_config: dict
    multiple: int
    digest: str
    dtype: torch.dtype
    pipe: Any
    reload: Callable[[torch.dtype], "DiffusionModel"]

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    def encode_text(self, text: str, negative: bool) -> Text:
        """One text as the model's own encoder sees it; `negative` where it stands in for the negative prompt."""
        return Text(self.pipe.encode_prompt(text, self.unet.device, 1, False)[0][0])

    def condition(self, text: Text, height: int, width: int, guidance: float, negative: bool) -> Condition:
        """What the network is told for this text at height x width pixels and text guidance g."""
        if self.unet.config.time_cond_proj_dim is None:
            return Condition(text.states, text.pooled)
        embedded = self.pipe.get_guidance_scale_embedding(
            torch.tensor([guidance - 1.0]), embedding_dim=self.unet.config.time_cond_proj_dim
        )
        return Condition(text.states, text.pooled, None, embedded[0].to(self.unet.device, self.dtype))

    def guided(self, guidance: float) -> bool:
        """Whether text guidance g takes an unconditional row: not up to 1, nor where the network is told g itself."""
        return guidance > 1 and self.unet.config.time_cond_proj_dim is None

    def reloaded(self, dtype: torch.dtype) -> "DiffusionModel":
        """The same model in fresh modules of another dtype, from the same files."""
        return self.reload(dtype)


def load_model(path: str, device: torch.device, dtype: torch.dtype) -> DiffusionModel:
    """Load a diffusers folder, or a hub id behind `hub:`. Raises ModelError when it cannot be used."""
    folder = model_folder(path)
    pipeline_class = read_model_index(folder).get("_class_name")
    if pipeline_class not in PIPELINES:
        raise ModelError(
            f"model {folder} is a {pipeline_class}: this version runs {' and '.join(sorted(PIPELINES))} folders"
        )
    try:
        with _no_progress_bars():
            pipe = StableDiffusionImg2ImgPipeline.from_pretrained(
                folder,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                local_files_only=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(f"model {folder} cannot be loaded: {_first_line(error)}; check the folder's files") from error
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        # Cast here and not at loading: diffusers and transformers disagree on the keyword and on the default.
        torch.nn.Module.to(module, device, dtype).requires_grad_(False).eval()
    if device.type == "cpu":
        make_rowwise(pipe.unet)
        make_rowwise(pipe.vae)

    return DiffusionModel(
        unet=pipe.unet,
        vae=pipe.vae,
        image_processor=pipe.image_processor,
        scheduler_class=type(pipe.scheduler).__name__,
        scheduler_config=dict(pipe.scheduler.config),
        multiple=pipe.vae_scale_factor,
        digest=model_digest(folder),
        dtype=dtype,
        pipe=pipe,
        reload=lambda other: load_model(path, device, other),
    )


def model_folder(path: str) -> Path:
    """The local folder of `path`: itself, or the snapshot of a hub id behind `hub:`."""
    if not str(path).startswith("hub:"):
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    name = str(path).removeprefix("hub:")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(
            f"model hub:{name} cannot be fetched: {_first_line(error)}; check name and network, or give a folder"
        ) from error


def read_model_index(folder: Path) -> dict:
    """The folder's model_index.json, with every component folder that it names present; else ModelError."""
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise ModelError(
            f"model path {folder} is not a folder: give a diffusers folder (model_index.json, unet/, vae/, ...)"
        )
    if not index.is_file():
        raise ModelError(
            f"model folder {folder} has no model_index.json: give a folder saved by diffusers' save_pretrained"
        )
    try:
        parts = json.loads(index.read_text())
    except ValueError as error:
        raise ModelError(f"{index} is not valid JSON: {_first_line(error)}") from error
    needed = [name for name, value in parts.items() if isinstance(value, list) and value[0] and name not in UNUSED]
    missing = [name for name in needed if not (folder / name).is_dir()]
    if missing:
        raise ModelError(f"model folder {folder} lacks {', '.join(missing)}, which its model_index.json names")
    return parts


def model_digest(folder: Path) -> str:
    """32 hex characters over the names and bytes of every file that shapes pixels."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.rglob("*")):
        part = file.relative_to(folder)
        if file.suffix not in {".json", ".txt", ".safetensors", ".model"} or part.parts[0] in UNUSED:
            continue
        digest.update(f"{part.as_posix()}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """A library prints nothing: diffusers and transformers draw bars while they load."""
    switches = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    for module in switches:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in switches:
            module.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
