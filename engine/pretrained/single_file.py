"""One .safetensors checkpoint in the original layout -> diffusers' img2img pipeline, by diffusers' own converter."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import SingleFileComponentError

from discl.engine.pretrained.files import ModelFiles, first_line
from discl.engine.pretrained.modules import UNLOADABLE, quiet, switches
from discl.errors import ModelError


def load_single_file(files: ModelFiles, pipeline: Any, dtypes: dict[str, torch.dtype]) -> Any:
    """The img2img pipeline on the CPU, configured by `files.folder`; dtypes: "vae" and, for all others, "unet".

    Raises ModelError for what cannot be loaded, and for a file that does not hold every weight.
    """
    file, source = str(files.checkpoint), {"config": str(files.folder), "local_files_only": True}
    try:
        with quiet(warnings=False):  # diffusers warns of the cast that it does itself
            vae = AutoencoderKL.from_single_file(file, subfolder="vae", torch_dtype=dtypes["vae"], **source)
            pipe = pipeline.from_single_file(file, vae=vae, torch_dtype=dtypes["unet"], **switches(pipeline), **source)
    except (*UNLOADABLE, SingleFileComponentError) as error:
        raise ModelError(
            f"model {file} cannot be loaded as {files.folder} describes it: {first_line(error)}"
        ) from error
    for name, part in pipe.components.items():
        empty = [key for key, value in getattr(part, "state_dict", dict)().items() if value.is_meta]
        if empty:
            raise ModelError(f"model {file} lacks {len(empty)} weights of its {name}, {empty[0]} among them")
    return pipe
