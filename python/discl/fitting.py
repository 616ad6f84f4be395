"""A classifier and a loader in, a trained classifier out: the flat loop, compiled once, resumable."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing

import torch

from discl.checkpoint import Checkpoints
from discl.errors import RunFailed
from discl.learner import Learner
from discl.losses import PRIORS
from discl.progress import Event, OnEvent, ignore
from discl.schedule import SCHEDULES
from discl.spent import Spent, shares
from discl.staging import Epoch, Staged, staged

log = logging.getLogger(__name__)

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
Stage = Callable[["Training", int], dict]
CHECK_EVERY = 32  # steps between two looks at the loss, which wait for the device
NAMED = 8  # ids in a message


def fit(
    learner: Learner,
    loader,
    config,
    validate: Callable[[], dict] | None = None,
    on_event: OnEvent = ignore,
    checkpoints: Checkpoints | None = None,
    stage: Stage | None = None,
) -> list[dict]:
    """Train `learner` on every epoch of `loader`; returns one record per epoch.

    config: TrainConfig (loss, lr, optimizer, weight_decay, schedule, warmup, clip_norm). validate: metrics to add to
    each record. `on_event` gets an event "progress" after every step and "epoch", the record, after every epoch; what
    it raises stops the training. Where there is a checkpoint, it is continued exactly, also by another number of
    ranks; whatever stops the training, also a signal, leaves one of the last whole step. Raises RunFailed within
    32 steps of a loss that is not finite, naming the step and the ids of its images; an event "not-finite" has all.
    stage: called with the Training and each epoch before its plan is made; what it gives goes into the record.
    """
    training = Training(learner, loader, config, checkpoints, stage)
    try:
        with closing(training.events(validate)) as events:
            for event in events:
                on_event(event)
    except NotFinite as error:
        on_event(error.event)
        raise
    except BaseException:
        training.rescue()
        raise
    return training.mark["history"]


class NotFinite(RunFailed):
    """A loss that is nan or infinite. `event` tells its epoch, step, value and the ids of all images of its batch."""

    def __init__(self, event: Event, lr: float):
        self.event, ids = event, event["ids"]
        named = ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
        place = f"epoch {event['epoch']}, step {event['step']}"
        super().__init__(
            f"the loss is {event['loss']} in {place}; lower train.lr = {lr}, set train.clip_norm, or look at the "
            f"images of this batch: {named}"
        )


class Training:
    """The parts of one `fit`. `mark` is the JSON state after the last step, `whole` whether the weights are of it.

    The mark holds the position in the order, the records of the finished epochs, and the running epoch with its
    summed loss, steps and seconds.
    """

    def __init__(
        self, learner: Learner, loader, config, checkpoints: Checkpoints | None, stage: Stage | None = None
    ):  # fmt: skip
        self.stage = stage
        self.learner, self.loader, self.config, self.checkpoints = learner, loader, config, checkpoints
        self.model, self.sampler, self.ranks = learner.model, loader.sampler, learner.ranks
        self.optimizer = build_optimizer(config, self.model)
        self.optimizer.zero_grad()  # a training that was stopped may have left gradients
        state = checkpoints.read(self.model, self.optimizer) if checkpoints else None
        if state:
            loader.load_state_dict(state["sampler"])
            loader.substituted = state["substituted"]
        self.steps = len(loader)  # of every epoch
        self.mark = state or self._begin([], loader.state_dict(), loader.substituted)
        self.spent = Spent(self.mark["spent"])
        self.whole, self._saved = True, self.mark
        self._unchecked: list[tuple[int, torch.Tensor, list[str]]] = []
        self._buffers = [buffer.clone() for buffer in self.model.buffers()]

    def _begin(self, history: list[dict], sampler: dict, substituted: int) -> dict:
        """The mark before the first step of an epoch; sampler, substituted: the loader's state."""
        self.spent = Spent()
        return {
            "sampler": sampler,
            "substituted": substituted,
            "history": history,
            "epoch": sampler["epoch"],
            "levels": [],
            "loss": 0.0,
            "steps": 0,
            "spent": dict(self.spent.seconds),
        }

    def events(self, validate: Callable[[], dict] | None) -> Generator[Event]:
        """Train on what is left; yields an event after every step and every epoch."""
        if self.sampler.epoch > self.mark["epoch"]:
            yield self.finish(validate)  # stopped after the last step of an epoch, before its record
        while self.sampler.epoch < self.sampler.epochs:
            yield from self._stretch(validate)

    def _stretch(self, validate: Callable[[], dict] | None) -> Generator[Event]:
        """All that is left, or the running epoch where something is to be seen of the model before the next."""
        if self.stage and not self.sampler.step:
            self.whole = False  # until a step of the epoch is done, the checkpoint before is what to go on from
            self.mark = self.mark | {"stage": self.stage(self, self.sampler.epoch)}
        end = self.sampler.epoch + 1 if self.stage else self.sampler.epochs
        epoch: Epoch | None = None
        prior = torch.empty(0)
        with closing(staged(self.loader, self.learner.batch, self.learner.device, end)) as batches:
            while batch := self._next(batches):
                if batch.epoch is not epoch:
                    epoch, prior = batch.epoch, self._prior(batch.epoch)
                    self.model.train()
                yield self._train_on(batch, prior)
                if batch.step + 1 == epoch.steps:
                    yield self.finish(validate)
                    self.save(now=self.mark["epoch"] == self.sampler.epochs)

    def _prior(self, epoch: Epoch) -> torch.Tensor:
        """What the loss adds to the logits: by the images that the epoch holds, or by the original ones."""
        original = getattr(self.config, "prior", "stage") == "original"
        counts = self.sampler.dataset.train_counts if original else epoch.class_counts
        return PRIORS[self.config.loss](counts).to(self.learner.device)

    def pass_over(self, loader) -> None:
        """Train on another loader's epoch at the rate that this one begins with, outside the order and the record."""
        self.model.train()
        set_rate(self.optimizer, self.config, self.mark["epoch"] * self.steps, self.sampler.epochs * self.steps)
        end = loader.sampler.epoch + 1
        with closing(staged(loader, self.learner.batch, self.learner.device, end)) as batches:
            for batch in batches:
                self.learner.loss(batch.images, batch.labels, self._prior(batch.epoch), batch.rows).backward()
                if self.config.clip_norm:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()

    def _next(self, batches: Iterator[Staged]) -> Staged | None:
        with self.spent.on("loader"):
            return next(batches, None)

    def _train_on(self, batch: Staged, prior: torch.Tensor) -> Event:
        with self.spent.on("step"):
            done, total = batch.epoch.number * self.steps + batch.step, self.sampler.epochs * self.steps
            set_rate(self.optimizer, self.config, done, total)
            self._step(batch, prior)
        if len(self._unchecked) >= CHECK_EVERY:
            self.check()
        self.save()
        return self._progress(batch.step)

    def _step(self, batch: Staged, prior: torch.Tensor) -> None:
        loss = self.learner.loss(batch.images, batch.labels, prior, batch.rows)
        loss.backward()
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        mark, self.whole = self.mark, False  # from here on the weights are neither the old nor the new ones
        self.optimizer.step()
        self.optimizer.zero_grad()
        _copy(self.model.buffers(), self._buffers)
        loss = self.ranks.mean(loss.detach())
        self._unchecked.append((mark["steps"] + 1, loss, batch.ids))
        self.mark = mark | {
            "sampler": batch.state,
            "substituted": batch.substituted,
            "levels": list(batch.epoch.levels),
            "loss": mark["loss"] + loss,
            "steps": mark["steps"] + 1,
            "spent": dict(self.spent.seconds),
        }
        self.whole = True

    def _progress(self, step: int) -> Event:
        """What a listener may show: see `discl.progress` and `discl.spent`."""
        mark, steps = self.mark, self.steps
        done, total = mark["epoch"] * steps + step + 1, self.sampler.epochs * steps
        now = self.spent.seconds
        rate = mark["steps"] / max(sum(now.values()), 1e-9)
        return {
            "event": "progress",
            "stage": "train",
            "done": done,
            "total": total,
            "rate": rate,
            "eta_s": (total - done) / max(rate, 1e-9),
            "seconds": sum(now.values()) + sum(record["seconds"] for record in mark["history"]),
            "epoch": mark["epoch"],
            "step": step + 1,
            "steps": steps,
            **shares(now, mark["steps"] * self.sampler.batch),
        }

    def check(self) -> None:
        """Wait for the device and raise NotFinite if a loss since the last check is not finite, on all ranks."""
        checked, self._unchecked = self._unchecked, []
        if not checked:
            return
        with self.spent.on("step"):
            losses = torch.stack([loss for _, loss, _ in checked]).cpu()
        if losses.isfinite().all():
            return
        self.whole = False  # nothing worth keeping
        step, loss, ids = checked[int((~losses.isfinite()).nonzero()[0])]
        everyones = [name for names in self.ranks.gather(ids) for name in names]
        event = {"event": "not-finite", "epoch": self.mark["epoch"], "step": step, "loss": float(loss)}
        raise NotFinite(event | {"ids": everyones}, self.config.lr)

    def finish(self, validate: Callable[[], dict] | None) -> Event:
        """Close the running epoch: its event. Raises RunFailed when a loss is not finite."""
        self.check()
        mark, epoch = self.mark, self.mark["epoch"]
        record = {
            "epoch": epoch,
            "levels": mark["levels"],
            "loss": float(mark["loss"]) / mark["steps"],
            "steps": (epoch + 1) * self.steps,
            **mark.get("stage", {}),
        }
        if validate:
            with self.spent.on("evaluation"):
                record["val"] = validate()
        spent = dict(self.spent.seconds)
        record |= {"seconds": sum(spent.values()), "spent": spent}
        self.mark = self._begin([*mark["history"], record], mark["sampler"], mark["substituted"])
        return {"event": "epoch", **record}

    def save(self, now: bool = False) -> None:
        """Write the checkpoint if it is due, or `now`; on the first rank, and only weights that are worth it."""
        if not (self.checkpoints and self.ranks.first and (now or self.checkpoints.due)):
            return
        with self.spent.on("checkpoint"):
            if all(loss.isfinite() for _, loss, _ in self._unchecked):
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


def set_rate(optimizer: torch.optim.Optimizer, config, step: int, steps: int) -> None:
    """config: TrainConfig (lr, schedule, warmup)."""
    rate = config.lr * SCHEDULES[config.schedule](step, steps, config.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate
