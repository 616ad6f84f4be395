"""The name of a CLIP checkpoint in; the open_clip model with its weights, tokenizer and digest out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch

from discl.engine.loading import one_at_a_time
from discl.errors import ModelError, nearest

CONFIG = "open_clip_config.json"
FORMS = '"ViT-B-32:openai", "ViT-B-32:file.safetensors", "hf-hub:org/name" or an open_clip folder'


@dataclasses.dataclass(frozen=True)
class ClipCheckpoint:
    """A CLIP in float32, in eval mode, on the CPU.

    digest: 32 hex characters, BLAKE2b of the configuration and every weight, the same for every file format.
    preprocess: open_clip's dictionary (size, mean, std, interpolation, resize_mode, fill_color).
    """

    model: torch.nn.Module
    tokenize: Callable[[list[str]], torch.Tensor]
    preprocess: Mapping[str, Any]
    width: int
    digest: str


@one_at_a_time
def load_clip(name: str) -> ClipCheckpoint:
    """Loads "architecture:published-tag", "architecture:weights-file", "hf-hub:org/name" or a folder.

    A folder is in open_clip's local-dir form: open_clip_config.json beside open_clip_model.safetensors.
    Published tags get the activation they were trained with: "ViT-B-32:openai" means QuickGELU. A weights
    file does not say, so such weights want the architecture's name with "-quickgelu".
    Raises ModelError: an unknown architecture or tag, a missing file, weights that need pickle or do not fit,
    a hub that cannot be reached.
    """
    source, weights = _resolve(name)
    quick_gelu = bool(weights and open_clip.get_pretrained_cfg(source, weights).get("quick_gelu"))
    try:
        with _quiet():
            model = open_clip.create_model(
                source, weights, require_pretrained=True, force_quick_gelu=quick_gelu, weights_only=True
            )
            tokenize = open_clip.get_tokenizer(source)
            config = open_clip.get_model_config(source)
    except Exception as cause:  # open_clip and the readers under it raise many kinds
        raise ModelError(_explain(name, source, weights, cause)) from cause
    model.eval().requires_grad_(False)
    preprocess = dict(model.visual.preprocess_cfg)
    settings = {"model": config, "quick_gelu": quick_gelu, "preprocess": preprocess}
    return ClipCheckpoint(model, tokenize, preprocess, config["embed_dim"], _digest(settings, model.state_dict()))


def _resolve(name: str) -> tuple[str, str | None]:
    """The same name as open_clip.create_model's two arguments."""
    if name.startswith("hf-hub:"):
        return name, None
    if Path(name).is_dir():
        if not (Path(name) / CONFIG).is_file():
            raise ModelError(f"clip {name!r}: the folder holds no {CONFIG}; name one in open_clip's local-dir form")
        return f"local-dir:{name}", None
    architecture, _, weights = name.partition(":")
    if not weights:
        raise ModelError(f"clip {name!r}: no such folder, and no weights are named; expected {FORMS}")
    if architecture not in open_clip.list_models():
        near = _nearest(architecture, open_clip.list_models())
        raise ModelError(f"clip {name!r}: open_clip knows no architecture {architecture!r}{near}")
    if not open_clip.get_pretrained_cfg(architecture, weights) and not Path(weights).is_file():
        near = _nearest(weights, open_clip.list_pretrained_tags_by_model(architecture))
        raise ModelError(
            f"clip {name!r}: there is no file {Path(weights).absolute()}, "
            f"and {architecture} has no published weights {weights!r}{near}"
        )
    return architecture, weights


def _nearest(word: str, known: list[str]) -> str:
    near = nearest(word, known)
    return f"; the nearest known is {near!r}" if near else ""


def _explain(name: str, source: str, weights: str | None, cause: Exception) -> str:
    reason = " ".join(str(cause).split())[:300]
    local = source.startswith("local-dir:") or (weights and Path(weights).is_file())
    if not local:
        fault = f"could not be fetched from the hub ({reason}); connect, or name a folder or a file"
    elif isinstance(cause, pickle.UnpicklingError) or "weights_only" in reason:
        fault = "the weights hold pickled objects, which are never loaded; convert them to safetensors"
    else:
        fault = f"could not be loaded ({reason}); check that weights and architecture belong together"
    return f"clip {name!r}: {fault}"


def _digest(settings: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for key, tensor in sorted(weights.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps open_clip's `logging.info(...)` calls from giving the caller's root logger a handler."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
