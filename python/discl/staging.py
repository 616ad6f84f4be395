"""Batches of a loader in, tensors of one fixed shape on the training's device out, made beside the running step."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch

from discl.ahead import ahead
from discl.losses import IGNORED


class Epoch(NamedTuple):
    """Its number, active levels and steps, and how many images of each class it holds, float64 [C], in expectation."""

    number: int
    levels: tuple[int, ...]
    steps: int
    class_counts: np.ndarray


class Staged(NamedTuple):
    """images [size, channels, side, side], labels int64 [size] and `rows`, a float32 scalar, on the device.

    rows: images of the global batch for each rank, in the mean. ids: of this rank's images. state, substituted: the
    loader's after this batch.
    """

    epoch: Epoch
    step: int
    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    ids: list[str]
    state: dict
    substituted: int


def staged(loader, size: int, device: torch.device, end: int | None = None) -> Generator[Staged]:
    """All batches that are left (before the epoch `end`), up to `loader.ahead` of them made by a thread meanwhile.

    So a short epoch does not wait for the first batch of the next, and the loader and its sampler belong to this
    iterator until it ends. On CUDA copies leave pinned memory on a stream of their own, which the step waits for and
    the host does not. On the CPU nothing is copied.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    made = _padded(loader, size, loader.sampler.epochs if end is None else end)
    with closing(ahead(_copied(made, device, stream), loader.ahead)) as batches:
        for batch, copied in batches:
            if copied is not None:
                current = torch.cuda.current_stream(device)
                current.wait_event(copied)
                for tensor in (batch.images, batch.labels, batch.rows):
                    tensor.record_stream(current)
            yield batch


def _padded(loader, size: int, end: int) -> Iterator[Staged]:
    sampler = loader.sampler
    while sampler.epoch < end:
        number, first = sampler.epoch, sampler.step
        plan = sampler.plan(number)
        epoch = Epoch(number, plan.levels, len(sampler), sampler.class_counts(number))
        for step, batch in enumerate(loader, first):
            rows = torch.tensor(min(sampler.batch, plan.total - step * sampler.batch) / sampler.world)
            images, labels = padded(batch, size)
            yield Staged(
                epoch, step, images, labels, rows, batch["id"], loader.state_dict(), loader.substituted
            )  # fmt: skip


def padded(batch: dict, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of exactly `size` rows, so that nothing recompiles.

    Rows are repeated, which leaves batch norm's statistics sound; the labels of repeated rows are ignored. A rank
    whose part of the last batch is empty gets blank images.
    """
    images, labels = batch["image"], batch["label"]
    missing = size - len(labels)
    if not len(labels):
        images = images.new_zeros(size, *images.shape[1:])
    elif missing:
        images = images[torch.arange(size) % len(labels)]
    if missing:
        labels = torch.cat([labels, labels.new_full((missing,), IGNORED)])
    return images, labels


def _copied(
    batches: Iterator[Staged], device: torch.device, stream: torch.cuda.Stream | None
) -> Iterator[tuple[Staged, torch.cuda.Event | None]]:
    """Loaded and copied on `stream`, images channels-last, with the event that says when they are there."""
    if stream is None:
        yield from ((batch, None) for batch in batches)
        return
    while copied := _next_copied(batches, device, stream):
        yield copied


def _next_copied(
    batches: Iterator[Staged], device: torch.device, stream: torch.cuda.Stream
) -> tuple[Staged, torch.cuda.Event] | None:
    with torch.cuda.stream(stream):
        batch = next(batches, None)
        if batch is None:
            return None
        tensors = batch.images, batch.labels, batch.rows
        images, labels, rows = (_pinned(tensor).to(device, non_blocking=True) for tensor in tensors)
        images = images.contiguous(memory_format=torch.channels_last)
        there = stream.record_event()
    if batch.images.device.type == "cuda":
        there.synchronize()  # DALI's own memory: it may take it back when the tensor is gone
    return batch._replace(images=images, labels=labels, rows=rows), there


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """In memory that the device reads by itself, unless a loader has left it on the device."""
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor
