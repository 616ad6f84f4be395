"""Batches of a loader in, tensors of one fixed shape on the training's device out, copied beside the running step."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from discl.losses import IGNORED


class Staged(NamedTuple):
    """images [size, channels, side, side], labels int64 [size] and `rows`, a float32 scalar, on the device.

    rows: images of the global batch for each rank, in the mean. ids: of this rank's images. state, substituted: the
    loader's after this batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    ids: list[str]
    state: dict
    substituted: int


def staged(loader, size: int, device: torch.device) -> Iterator[Staged]:
    """The rest of the loader's epoch.

    On CUDA copies leave pinned memory on a stream of their own: the host is ahead of the device, so a batch is copied
    while the one before it trains. On the CPU nothing is copied.
    """
    sampler = loader.sampler
    total, world = sampler.plan(sampler.epoch).total, sampler.world
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    for step, batch in enumerate(loader, sampler.step):
        rows = torch.tensor(min(sampler.batch, total - step * sampler.batch) / world)
        images, labels = padded(batch, size)
        if stream is not None:
            images, labels, rows = _copied([images, labels, rows], device, stream)
        yield Staged(images, labels, rows, batch["id"], loader.state_dict(), loader.substituted)


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


def _copied(tensors: list[torch.Tensor], device: torch.device, stream: torch.cuda.Stream) -> list[torch.Tensor]:
    """Copies on `stream`, images channels-last; the current stream waits for them, the host does not."""
    current = torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        moved = [_pinned(tensor).to(device, non_blocking=True) for tensor in tensors]
    current.wait_stream(stream)
    for tensor in moved:
        tensor.record_stream(current)
    return [moved[0].contiguous(memory_format=torch.channels_last), *moved[1:]]


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """In memory that the device reads by itself, unless a loader has left it on the device."""
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor
