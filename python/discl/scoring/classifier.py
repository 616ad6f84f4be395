"""A finished training's folder in; for images, how sure its classifier is of the class they should show, out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from discl.kept import counting_weights
from discl.trained import open_trained, refuse_unfinished
from discl.views import render

AT_ONCE = 64  # images in one forward pass
ASKED = "classifier"


def state_of(run: Path) -> str:
    """Tells two states of the weights that count apart, by time and size. ConfigError where `run` has not finished."""
    refuse_unfinished(run, ASKED)
    facts = counting_weights(run).stat()
    return f"{run.resolve()} {facts.st_mtime_ns} {facts.st_size}"


class TaskClassifier:
    """The classifier that the training in the folder `run` made. Raises what `open_trained` does."""

    def __init__(self, run: Path, device: str = "cpu"):
        trained = open_trained(run, ASKED, device=device)
        self.class_names, self.view = trained.class_names, trained.view
        self.model, self.device = trained.learner.model, trained.learner.device

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
