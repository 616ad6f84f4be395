"""The folder of a finished training in, its classifier with the weights that count out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from discl.config import load_config
from discl.errors import ConfigError

if TYPE_CHECKING:
    from discl.learner import Learner
    from discl.views import View


@dataclass(frozen=True)
class Trained:
    """A classifier in evaluation mode. class_names: of its columns; view: how it saw its test images."""

    learner: "Learner"
    class_names: tuple[str, ...]
    view: "View"
    workers: int


def finished(run: str | Path) -> bool:
    """Whether the folder holds what a whole training leaves."""
    return all((Path(run) / name).is_file() for name in ("config.toml", "metrics.json"))


def refuse_unfinished(run: str | Path, asked: str) -> None:
    """ConfigError that names what asked for the training, as `hard.run`."""
    if not finished(run):
        raise ConfigError(f"{asked} = {run}: no finished training; give a folder that `discl train` made")


def open_trained(
    run: str | Path, asked: str, class_names: Sequence[str] | None = None, device: str = ""
) -> Trained:  # fmt: skip
    """class_names: what the classifier must know. device: default: the training's.

    Raises ConfigError where the training has not finished or knows other classes, ModelError for damaged weights.
    """
    from discl.classifier import recipe_of
    from discl.kept import counting_weights
    from discl.learner import Learner
    from discl.training import device_of, sized

    refuse_unfinished(run, asked)
    config = load_config(Path(run) / "config.toml")
    made, names = config.train, tuple(json.loads((Path(run) / "metrics.json").read_text())["class_names"])
    if class_names is not None and tuple(class_names) != names:
        raise ConfigError(f"{asked} = {run}: {_difference(names, class_names)}; train it on the classes of this data")
    learner = Learner(made.model, names, made.batch, device or device_of(config), compile=False, captions=made.captions)
    learner.reset(made.seed, str(counting_weights(Path(run))))
    learner.model.eval()
    return Trained(learner, names, sized(recipe_of(made.model).test, made.image_size), made.workers)


def _difference(known: Sequence[str], asked: Sequence[str]) -> str:
    if len(known) != len(asked):
        return f"it knows {len(known)} classes, the data has {len(asked)}"
    label = next(label for label, pair in enumerate(zip(known, asked, strict=True)) if pair[0] != pair[1])
    return f"its class {label} is {known[label]!r}, the data's is {asked[label]!r}"
