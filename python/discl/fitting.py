"""A classifier and a loader in, a trained classifier out: the flat loop, compiled once, resumable."""

import math
import time
from collections.abc import Callable

import torch

from discl.checkpoint import Checkpoints, load_weights, part, read_tensors
from discl.classifier import build_classifier
from discl.errors import RunFailed
from discl.losses import IGNORED, PRIORS, classification_loss

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Learner:
    """A network and its compiled loss. `reset` draws new weights into the same tensors, so any number of
    trainings share one compilation.

    batch: rows of every training step (smaller batches are padded). compile: False runs eagerly.
    """

    def __init__(self, name: str, classes: int, batch: int, device="cpu", compile: bool = True):
        self.name, self.classes, self.batch, self.device = name, classes, batch, torch.device(device)
        self.model = build_classifier(name, classes, seed=0).to(self.device)
        self.loss = torch.compile(self._loss, dynamic=False) if compile else self._loss

    def reset(self, seed: int, init: str = "") -> None:
        """Weights from `seed`, or from a safetensors file (a checkpoint of ours, or the bare weights)."""
        if init:
            tensors, state = read_tensors(init)
            load_weights(self.model, part(tensors, "model.") if state else tensors, init)
        else:
            fresh = build_classifier(self.name, self.classes, seed)
            self.model.load_state_dict(fresh.state_dict())

    def _loss(self, images: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.model(images)
        return classification_loss(logits, labels, prior)


def fit(
    learner: Learner,
    loader,
    config,
    validate: Callable[[], dict] | None = None,
    on_event: Callable[[dict], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[dict]:
    """Train `learner` on every epoch of `loader`; returns one record per epoch.

    config: TrainConfig (loss, lr, optimizer, weight_decay). validate: metrics to add to each record. The rate
    falls from lr to 0 along a cosine, step by step. Where there is a checkpoint, it is continued exactly.
    """
    model, sampler, device = learner.model, loader.sampler, learner.device
    optimizer = build_optimizer(config, model)
    state = checkpoints.read(model, optimizer) if checkpoints else None
    history = state["history"] if state else []
    if state:
        sampler.load_state_dict(state["sampler"])
    while sampler.epoch < sampler.epochs:
        epoch, steps, began = sampler.epoch, len(loader), time.perf_counter()
        prior = PRIORS[config.loss](sampler.class_counts(epoch)).to(device)
        total_loss, first = torch.zeros((), device=device), sampler.step
        model.train()
        for step, batch in enumerate(loader, epoch * steps + first):
            set_rate(optimizer, config.lr, step, sampler.epochs * steps)
            images, labels = padded(batch, learner.batch, device)
            loss = learner.loss(images, labels, prior)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total_loss += loss.detach()
            if checkpoints and checkpoints.due and sampler.epoch == epoch:
                checkpoints.write(model, optimizer, {"sampler": sampler.state_dict(), "history": history})
        mean_loss = float(total_loss) / (steps - first)  # the epoch's one wait for the device
        if not math.isfinite(mean_loss):
            raise RunFailed(f"the loss is {mean_loss} in epoch {epoch}; lower train.lr = {config.lr}")
        record = {
            "epoch": epoch,
            "levels": list(sampler.plan(epoch).levels),
            "loss": mean_loss,
            "steps": (epoch + 1) * steps,
            "seconds": time.perf_counter() - began,
        }
        history.append(record | {"val": validate()} if validate else record)
        if on_event:
            on_event({"event": "epoch", **history[-1]})
        if checkpoints and (checkpoints.due or sampler.epoch == sampler.epochs):
            checkpoints.write(model, optimizer, {"sampler": sampler.state_dict(), "history": history})
    return history


def build_optimizer(config, model: torch.nn.Module) -> torch.optim.Optimizer:
    extra = {"momentum": 0.9, "nesterov": True} if config.optimizer == "sgd" else {}
    kind = OPTIMIZERS[config.optimizer]
    return kind(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True, **extra)


def set_rate(optimizer: torch.optim.Optimizer, lr: float, step: int, steps: int) -> None:
    """Cosine from lr at step 0 towards 0 at the end."""
    rate = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate


def padded(batch: dict, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of exactly `size` rows, so that nothing recompiles.

    Rows are repeated, which leaves batch norm's statistics sound; the labels of repeated rows are ignored.
    """
    images, labels = batch["image"], batch["label"]
    missing = size - len(labels)
    if missing:
        images = images[torch.arange(size) % len(labels)]
        labels = torch.cat([labels, labels.new_full((missing,), IGNORED)])
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
