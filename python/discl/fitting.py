"""A classifier and a loader in, a trained classifier out: the flat loop, compiled once, resumable."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch

from discl.checkpoint import Checkpoints, load_weights, part, read_tensors
from discl.classifier import build_classifier
from discl.errors import RunFailed
from discl.losses import IGNORED, PRIORS, classification_loss
from discl.progress import OnEvent, ignore

log = logging.getLogger(__name__)

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
    on_event: OnEvent = ignore,
    checkpoints: Checkpoints | None = None,
) -> list[dict]:
    """Train `learner` on every epoch of `loader`; returns one record per epoch.

    config: TrainConfig (loss, lr, optimizer, weight_decay). validate: metrics to add to each record. The rate
    falls from lr to 0 along a cosine, step by step. `on_event` gets an event "step" after every step and
    "epoch", the record, after every epoch; what it raises stops the training. Where there is a checkpoint, it
    is continued exactly; whatever stops the training, also a signal, leaves one of the last whole step.
    """
    training = Training(learner, loader, config, checkpoints)
    try:
        while training.mark["epoch"] < loader.sampler.epochs:
            for event in training.steps():
                on_event(event)
            on_event(training.finish(validate))
            training.save(now=loader.sampler.epoch == loader.sampler.epochs)
    except BaseException:
        training.rescue()
        raise
    return training.mark["history"]


class Training:
    """The parts of one `fit`. `mark` is the JSON state after the last step, `whole` whether the weights are of it.

    The mark holds the position in the order, the records of the finished epochs, and the running epoch with its
    summed loss, steps and seconds.
    """

    def __init__(self, learner: Learner, loader, config, checkpoints: Checkpoints | None):
        self.learner, self.loader, self.config, self.checkpoints = learner, loader, config, checkpoints
        self.model, self.sampler = learner.model, loader.sampler
        self.optimizer = build_optimizer(config, self.model)
        self.optimizer.zero_grad()  # a training that was stopped may have left gradients
        state = checkpoints.read(self.model, self.optimizer) if checkpoints else None
        if state:
            self.sampler.load_state_dict(state["sampler"])
            loader.substituted = state["substituted"]
        self.mark = state or self._begin([])
        self.whole, self._saved = True, self.mark
        self._buffers = [buffer.clone() for buffer in self.model.buffers()]

    def _begin(self, history: list[dict]) -> dict:
        """The mark before the first step of an epoch."""
        return {
            "sampler": self.sampler.state_dict(),
            "substituted": self.loader.substituted,
            "history": history,
            "epoch": self.sampler.epoch,
            "loss": 0.0,
            "steps": 0,
            "seconds": 0.0,
        }

    def steps(self) -> Iterator[dict]:
        """Train on what is left of the running epoch; yields an event after every step."""
        epoch, steps = self.mark["epoch"], len(self.loader)
        if self.sampler.epoch > epoch:
            return  # stopped after its last step, before its record
        began = time.perf_counter() - self.mark["seconds"]
        prior = PRIORS[self.config.loss](self.sampler.class_counts(epoch)).to(self.learner.device)
        self.model.train()
        for step, batch in enumerate(self.loader, self.sampler.step):
            set_rate(self.optimizer, self.config.lr, epoch * steps + step, self.sampler.epochs * steps)
            self._step(batch, prior, began)
            self.save()
            yield {"event": "step", "epoch": epoch, "step": step + 1, "steps": steps}

    def _step(self, batch: dict, prior: torch.Tensor, began: float) -> None:
        images, labels = padded(batch, self.learner.batch, self.learner.device)
        loss = self.learner.loss(images, labels, prior)
        loss.backward()
        mark, self.whole = self.mark, False  # from here on the weights are neither the old nor the new ones
        self.optimizer.step()
        self.optimizer.zero_grad()
        _copy(self.model.buffers(), self._buffers)
        self.mark = mark | {
            "sampler": self.sampler.state_dict(),
            "substituted": self.loader.substituted,
            "loss": mark["loss"] + loss.detach(),
            "steps": mark["steps"] + 1,
            "seconds": time.perf_counter() - began,
        }
        self.whole = True

    def finish(self, validate: Callable[[], dict] | None) -> dict:
        """Close the running epoch: its event. Raises RunFailed when the loss is not finite."""
        mark, epoch = self.mark, self.mark["epoch"]
        mean_loss = float(mark["loss"]) / mark["steps"]  # the epoch's one wait for the device
        if not math.isfinite(mean_loss):
            self.whole = False  # nothing worth keeping
            raise RunFailed(f"the loss is {mean_loss} in epoch {epoch}; lower train.lr = {self.config.lr}")
        record = {
            "epoch": epoch,
            "levels": list(self.sampler.plan(epoch).levels),
            "loss": mean_loss,
            "steps": (epoch + 1) * len(self.loader),
            "seconds": mark["seconds"],
        }
        if validate:
            record["val"] = validate()
        self.mark = self._begin([*mark["history"], record])
        return {"event": "epoch", **record}

    def save(self, now: bool = False) -> None:
        """Write the checkpoint if it is due, or `now`."""
        if self.checkpoints and (now or self.checkpoints.due):
            state = self.mark | {"loss": float(self.mark["loss"])}
            self.checkpoints.write(self.model, self.optimizer, state)
            self._saved = self.mark

    def rescue(self) -> None:
        """Save the last whole step after an exception, which must not be replaced by one of ours."""
        if not self.whole or self.mark is self._saved:
            return
        try:
            _copy(self._buffers, self.model.buffers())  # a forward pass may have begun the next step
            self.save(now=True)
        except Exception as error:
            log.warning("the last checkpoint could not be written: %s", error)


def _copy(sources: Iterable[torch.Tensor], targets: Iterable[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


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
