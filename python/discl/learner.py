"""The name of a network in, the network with its compiled loss out, on one device and for one rank."""

from collections.abc import Sequence
from typing import Any

import torch

from discl.checkpoint import load_weights, part, read_tensors
from discl.classifier import build_classifier
from discl.errors import ConfigError
from discl.losses import classification_loss
from discl.ranks import ALONE, Ranks


class Learner:
    """A network and its compiled loss. `reset` draws new weights into the same tensors, so any number of
    trainings share one compilation.

    classes: their number or, for CLIP, which reads them, their names. batch: this rank's rows of every training step
    (smaller batches are padded). compile: False runs eagerly, as CLIP does on CPUs. contrastive: the FLYP loss of a
    CLIP instead of a classifier's. On CUDA in bfloat16 autocast and channels-last.
    """

    def __init__(
        self, name: str, classes: int | Sequence[str], batch: int, device="cpu", compile: bool = True,
        ranks: Ranks = ALONE, contrastive: bool = False, captions: Sequence[str] = (),
    ):  # fmt: skip
        self.name, self.classes, self.batch, self.device = name, classes, batch, torch.device(device)
        self.ranks, self.captions = ranks, tuple(captions)
        self.model = build_classifier(name, classes, 0, self.captions).to(self.device)
        if contrastive and not hasattr(self.model, "contrastive"):
            raise ConfigError(
                f"train.loss = 'flyp' needs a CLIP, not train.model = {name!r}; write 'clip:ViT-B-16:openai'"
            )
        if contrastive and ranks.world > 1:
            raise ConfigError(
                "train.loss = 'flyp' compares all images of a batch, so it runs on one rank; drop torchrun"
            )
        if self.device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
            if ranks.world > 1:
                self.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        objective = ranks.parallel(Objective(self.model, self.device.type, contrastive), self.device)
        eager = not compile or (hasattr(self.model, "contrastive") and self.device.type == "cpu")
        self.loss = objective if eager else torch.compile(objective, dynamic=False)

    def reset(self, seed: int, init: str = "") -> None:
        """Weights from `seed`, or from a safetensors file (a checkpoint of ours, or the bare weights)."""
        if init:
            tensors, state = read_tensors(init)
            load_weights(self.model, part(tensors, "model.") if state else tensors, init)
        else:
            fresh = build_classifier(self.name, self.classes, seed, self.captions)
            self.model.load_state_dict(fresh.state_dict())


class Objective(torch.nn.Module):
    """(images, labels, prior, rows) -> the loss, see `classification_loss` and `ClipClassifier.contrastive`."""

    def __init__(self, model: torch.nn.Module, kind: str, contrastive: bool = False):
        super().__init__()
        self.model: Any = model
        self.kind, self.contrastive = kind, contrastive

    def forward(self, images, labels, prior, rows=None) -> torch.Tensor:
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.kind == "cuda"):
            if self.contrastive:
                return self.model.contrastive(images, labels, rows)
            logits = self.model(images)
        return classification_loss(logits, labels, prior, rows)
