"""discl.engine.pretrained: the name of a diffusion model in; modules that the engine runs, and a digest, out.

    files          path or hub id -> which files           configuration  what the weights of a single file mean
    digest         what of them shapes pixels              load           all of the following, in order
    modules        files -> diffusers' pipeline            single_file    the same from one checkpoint
    embeddings     new words, by textual inversion         lora           low-rank updates, merged
    checks         do the parts fit together?              families       what each kind of model wants to be told
    model          the interface that the engine sees

`files`, `digest` and `lora` know no torch, so a plan can name a model without loading one.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {"DiffusionModel": "discl.engine.pretrained.model", "load_model": "discl.engine.pretrained.load"}

__all__ = ["DiffusionModel", "load_model"]

if TYPE_CHECKING:
    from discl.engine.pretrained.load import load_model
    from discl.engine.pretrained.model import DiffusionModel


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'discl.engine.pretrained' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
