"""A finished training's folder in; for images, how sure its classifier is of the class they should show, out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from discl.checkpoint import NAME
from discl.classifier import recipe_of
from discl.config import load_config
from discl.data import load_data
from discl.errors import ModelError
from discl.learner import Learner
from discl.training import sized
from discl.views import render

AT_ONCE = 64  # images in one forward pass


def state_of(run: Path) -> str:
    """Tells two states of a run's checkpoint apart, by its time and size. ModelError where `run` is no training's."""
    weights, config = run / "checkpoints" / NAME, run / "config.toml"
    if not weights.is_file() or not config.is_file():
        raise ModelError(f"{run}: there is no checkpoint with its config.toml; give a folder that discl train made")
    return f"{run.resolve()} {weights.stat().st_mtime_ns} {weights.stat().st_size}"


class TaskClassifier:
    """The last checkpoint of a run, with its test view. Raises ModelError where `run` is no training's folder."""

    def __init__(self, run: Path, device: str = "cpu"):
        state_of(run)
        weights, config = run / "checkpoints" / NAME, run / "config.toml"
        settings = load_config(config)
        self.class_names = load_data(settings.data).class_names
        self.view = sized(recipe_of(settings.train.model).test, settings.train.image_size)
        learner = Learner(settings.train.model, len(self.class_names), AT_ONCE, device, compile=False)
        learner.reset(settings.train.seed, str(weights))
        self.model, self.device = learner.model.eval(), learner.device

    @torch.inference_mode()
    def columns(self, images: Sequence[Image.Image | None], names: Sequence[str]) -> dict[str, pa.Array]:
        """confidence: probability of the class called names[i]; predicted: the likeliest class. Null without an image,
        and confidence also for a class that the classifier does not know."""
        there = [(at, image) for at, image in enumerate(images) if image is not None]
        likely = np.zeros((len(images), len(self.class_names)), np.float32)
        for start in range(0, len(there), AT_ONCE):
            chunk = there[start : start + AT_ONCE]
            views = torch.stack([render(image, self.view) for _, image in chunk])
            likely[[at for at, _ in chunk]] = self.model(views.to(self.device)).float().softmax(1).cpu().numpy()
        known = {name: at for at, name in enumerate(self.class_names)}
        own = np.array([known.get(name, -1) for name in names])
        absent = np.array([image is None for image in images])
        best = [self.class_names[at] for at in likely.argmax(1)]
        return {
            "confidence": pa.array(likely[np.arange(len(own)), own], mask=absent | (own < 0)),
            "predicted": pa.array(best, pa.string(), mask=absent),
        }
