"""The same batches as the DALI loader from a plain torch DataLoader: the reference, and its stand-in."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from discl.views import View, render, windows


class TorchLoader:
    """See `discl.loader.CurriculumLoader`: same arguments, same output. `threads` counts worker processes."""

    ahead = 0  # its processes are forked by whoever iterates, which must not be a thread beside a running step

    def __init__(self, dataset, sampler, view: View, threads: int = 0):
        self.dataset, self.sampler, self.view, self.threads = dataset, sampler, view, threads
        self.substituted = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def state_dict(self) -> dict:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.sampler.load_state_dict(state)

    def __iter__(self) -> Iterator[dict]:
        steps = range(self.sampler.step, len(self.sampler))
        batches = [self._wishes(self.sampler.epoch, step) for step in steps]
        views = _Views(self.dataset, self.view)
        loader = DataLoader(views, batch_sampler=batches, num_workers=self.threads, collate_fn=self._collate)
        for asked, (used, images) in zip(batches, loader, strict=True):
            self.substituted += int(sum(wish[0] != row for wish, row in zip(asked, used, strict=True)))
            self.sampler.advance()
            yield describe(self.dataset, used, images)

    def _wishes(self, epoch: int, step: int) -> list[tuple]:
        """(row, window, flipped) for each image of a batch."""
        rows, positions = self.sampler.rows(epoch, step), self.sampler.positions(epoch, step)
        boxes, flipped = windows(self.view, self.sampler.seed, epoch, positions)
        return list(zip(rows.tolist(), boxes, flipped, strict=True))

    def _collate(self, items: list[tuple[int, torch.Tensor]]) -> tuple[np.ndarray, torch.Tensor]:
        rows = np.array([row for row, _ in items], dtype=np.int64)
        shape = (0, self.view.channels, self.view.size, self.view.size)
        return rows, torch.stack([image for _, image in items]) if items else torch.empty(shape)


class _Views(Dataset):
    """Wish (row, window, flipped) -> (row used, normalised image)."""

    def __init__(self, dataset, view: View):
        self.dataset, self.view = dataset, view

    def __getitem__(self, wish: tuple) -> tuple[int, torch.Tensor]:
        asked, window, flipped = wish
        row, image = self.dataset.decoded(asked)
        return row, render(image, self.view, window, flipped)


def describe(dataset, rows: np.ndarray, images: torch.Tensor) -> dict:
    """A batch: the images with what the dataset knows about their rows."""
    return {
        "image": images,
        "label": torch.from_numpy(dataset.labels[rows].astype(np.int64)),
        "level": torch.from_numpy(dataset.levels[rows].astype(np.int64)),
        "is_synth": torch.from_numpy(dataset.is_synth[rows]),
        "id": dataset.names(rows),
    }
