"""discl: a synthetic-to-real spectrum from a few hard images, and curriculum training on it.

The map, in the order in which data flows:

    config      TOML -> RunConfig                    data        folders, tables -> DataTable
    hard        DataTable -> hard rows               plan        hard rows x levels x seeds -> requests
    engine/     requests -> scored images            store       images, scores -> shards + index
    selection   scores -> accepted keys              curriculum  epoch -> active levels and pools
    sampler     pools -> order of ids (C++)          loader      ids -> batches (DALI or torch)
    training    batches -> classifier                evaluation  classifier -> many/medium/few
    report      runs -> one HTML page                cli         all of it from the command line

Importing this module is cheap: the public names are loaded when they are first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "DisclError": "discl.errors",
    "load_config": "discl.config",
    "Engine": "discl.engine",
    "Request": "discl.engine",
    "Sample": "discl.engine",
    "Store": "discl.store",
    "generate": "discl.generation",
    "SpectrumDataset": "discl.dataset",
    "CurriculumSampler": "discl.sampler",
    "CurriculumLoader": "discl.loader",
    "train": "discl.training",
}

__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from discl.config import load_config
    from discl.dataset import SpectrumDataset
    from discl.engine import Engine, Request, Sample
    from discl.errors import DisclError
    from discl.generation import generate
    from discl.loader import CurriculumLoader
    from discl.sampler import CurriculumSampler
    from discl.store import Store
    from discl.training import train


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'discl' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
