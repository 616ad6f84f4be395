"""A model's files -> diffusers' img2img pipeline, every component loaded whole, in its dtype, by its own library."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from discl.engine.pretrained.files import ModelFiles, first_line
from discl.errors import ModelError

CLASSES = {
    "unet": (UNet2DConditionModel,),
    "vae": (AutoencoderKL,),
    "text_encoder": (CLIPTextModel, CLIPTextModelWithProjection),
    "text_encoder_2": (CLIPTextModelWithProjection,),
}
# What diffusers, transformers and safetensors raise for files that are missing, cut, or of another shape.
UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError)


def load_folder(files: ModelFiles, pipeline: type, dtypes: dict[str, torch.dtype]) -> Any:
    """The img2img pipeline of `pipeline`'s class on the CPU; dtypes: of each component that has weights.

    Raises ModelError for what cannot be loaded, and for weights that do not fill a component (the libraries would
    fill the rest with random numbers and go on).
    """
    components = _component_classes(files)
    try:
        with quiet():
            modules = {name: _component(files, name, cls, dtypes[name]) for name, cls in components.items()}
            return pipeline.from_pretrained(  # type: ignore[attr-defined]
                files.folder, **modules, **switches(pipeline), local_files_only=True
            )
    except UNLOADABLE as error:
        raise ModelError(
            f"model {files.folder} cannot be loaded: {first_line(error)}; check the folder's files"
        ) from error


def switches(pipeline: type) -> dict[str, Any]:
    """Keywords that leave out what no image here passes through: safety checker, image prompts, watermark."""
    off = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
        "add_watermarker": False,
    }
    known = inspect.signature(pipeline).parameters
    return {name: value for name, value in off.items() if name in known}


def _component_classes(files: ModelFiles) -> dict[str, type]:
    chosen = {}
    for name, known in CLASSES.items():
        if name not in files.parts:
            continue
        given = files.parts[name]
        classes = {cls.__name__: cls for cls in known}
        if given not in classes:
            raise ModelError(f"model {files.name} has a {given} as its {name}: it should be a {' or '.join(classes)}")
        chosen[name] = classes[given]
    return chosen


def _component(files: ModelFiles, name: str, cls: Any, dtype: torch.dtype) -> torch.nn.Module:
    module, report = cls.from_pretrained(
        files.folder / name,
        variant=files.variant(name),
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{name} lacks {len(missing)} weights, {missing[0]} among them")
    return module


@contextmanager
def quiet(warnings: bool = True) -> Iterator[None]:
    """A library prints nothing: diffusers and transformers draw bars while they load, and warn if `warnings`."""
    talkers = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    level = diffusers_logging.get_verbosity()
    for module in talkers:
        module.disable_progress_bar()
    if not warnings:
        diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        for module in talkers:
            module.enable_progress_bar()
