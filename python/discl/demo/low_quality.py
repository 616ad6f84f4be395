"""The demo's second half (`discl demo --full`): hard because of their quality, not their class (paper 3.3, 5.3).

Train plainly, take the training images that the classifier is least sure of, make their spectrum, compare curricula.
"""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from discl.config import RunConfig, load_config
from discl.cpu_threads import cpu_threads
from discl.generation import generate
from discl.methods import Method, compare_methods
from discl.progress import OnEvent, ignore
from discl.store import Store
from discl.training import train

METHODS = (
    Method("ce", "none"),
    Method("ce-resampled", "real-only"),
    Method("all-level", "all-level"),
    Method("easy-to-hard", "diverse-to-specific"),
    Method("hard-to-easy", "specific-to-diverse"),
    Method("random", "random"),
    Method("adaptive", "adaptive", curriculum={"real_tail": False}),
)


def low_quality_config(out: Path) -> RunConfig:
    """Models from the package; data, the plain training and the store below `out`."""
    with as_file(files("discl.demo") / "low_quality.toml") as file:
        folders = {"store.path": out / "spectrum-lq", "data.root": out / "data", "hard.run": out / "plain-lq"}
        return load_config(file, [f"{key}={json.dumps(str(folder))}" for key, folder in folders.items()])


def low_quality(out: Path, seeds, on_event: OnEvent | None = None) -> tuple[dict[str, Any], Store]:
    """The result table, on id_test (as trained) and test (all spoilt); what is there is not made again."""
    config = low_quality_config(out)
    with cpu_threads(1):
        train(plain(config), out / "plain-lq", on_event or ignore)
    store = generate(config, on_event)
    return compare_methods(config, seeds, on_event, METHODS), store


def plain(config: RunConfig) -> RunConfig:
    """The same training on real images alone, in which nothing is hard yet."""
    update = {"policy": "none"}
    hard = config.hard.model_copy(update={"rule": "all", "run": ""})
    return config.model_copy(update={"hard": hard, "curriculum": config.curriculum.model_copy(update=update)})
