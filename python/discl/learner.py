"""The name of a network in, the network with its compiled loss out, on one device and for one rank."""

import torch

from discl.checkpoint import load_weights, part, read_tensors
from discl.classifier import build_classifier
from discl.losses import classification_loss
from discl.ranks import ALONE, Ranks


class Learner:
    """A network and its compiled loss. `reset` draws new weights into the same tensors, so any number of
    trainings share one compilation.

    batch: this rank's rows of every training step (smaller batches are padded). compile: False runs eagerly.
    On CUDA in bfloat16 autocast and channels-last.
    """

    def __init__(
        self, name: str, classes: int, batch: int, device="cpu", compile: bool = True, ranks: Ranks = ALONE
    ):  # fmt: skip
        self.name, self.classes, self.batch, self.device = name, classes, batch, torch.device(device)
        self.ranks, self.model = ranks, build_classifier(name, classes, seed=0).to(self.device)
        if self.device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
            if ranks.world > 1:
                self.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        objective = ranks.parallel(Objective(self.model, self.device.type), self.device)
        self.loss = torch.compile(objective, dynamic=False) if compile else objective

    def reset(self, seed: int, init: str = "") -> None:
        """Weights from `seed`, or from a safetensors file (a checkpoint of ours, or the bare weights)."""
        if init:
            tensors, state = read_tensors(init)
            load_weights(self.model, part(tensors, "model.") if state else tensors, init)
        else:
            fresh = build_classifier(self.name, self.classes, seed)
            self.model.load_state_dict(fresh.state_dict())


class Objective(torch.nn.Module):
    """(images, labels, prior, rows) -> the loss, see `classification_loss`."""

    def __init__(self, model: torch.nn.Module, kind: str):
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, images, labels, prior, rows=None) -> torch.Tensor:
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.kind == "cuda"):
            logits = self.model(images)
        return classification_loss(logits, labels, prior, rows)
