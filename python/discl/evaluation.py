"""A classifier and labelled batches become accuracy (overall, many, medium, few) and macro F1."""

from collections.abc import Iterable

import numpy as np
import torch

from discl.loader import open_loader
from discl.ranks import ALONE, Ranks
from discl.sampler import InOrder
from discl.views import View

HELD_BYTES = 256 << 20


def measure(learner, batches: Iterable[dict], train_counts, few_below: int, many_from: int) -> dict:
    """`metrics` of a learner over the batches of all its ranks, the same on each of them; rank 0's statistics count."""
    learner.ranks.agree_on(learner.model.buffers())
    parts = learner.ranks.gather(predict(learner.model, batches))
    labels, classes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return metrics(labels, classes, train_counts, few_below, many_from)


@torch.inference_mode()
def predict(model: torch.nn.Module, batches: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predicted classes, int64 [n] each. The model is left in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    labels, classes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in batches:
        logits = model(batch["image"].to(device))
        classes.append(logits.argmax(1).cpu().numpy())  # the one place where evaluation waits for the device
        labels.append(batch["label"].numpy())
    return np.concatenate(labels), np.concatenate(classes)


def metrics(labels, classes, train_counts, few_below: int, many_from: int) -> dict:
    """Top-1 as fractions, pooled over the images of a group; groups by ORIGINAL training counts (paper 5.1).

    few: count < few_below; many: count >= many_from. A group without images is None. `macro_f1` averages over
    the classes that occur in `labels`, as WILDS does. `per_class`: accuracies, None for an absent class.
    """
    labels, classes = np.asarray(labels), np.asarray(classes)
    counts = np.asarray(train_counts)[labels]
    right = labels == classes
    few, many = counts < few_below, counts >= many_from
    return {
        "overall": _mean(right),
        "many": _mean(right[many]),
        "medium": _mean(right[~few & ~many]),
        "few": _mean(right[few]),
        "macro_f1": macro_f1(labels, classes),
        "per_class": [_mean(right[labels == label]) for label in range(len(train_counts))],
    }


def macro_f1(labels: np.ndarray, classes: np.ndarray) -> float | None:
    """Mean over the classes in `labels` of 2 * hits / (labelled + predicted)."""
    scores = [
        2 * np.sum((labels == c) & (classes == c)) / (np.sum(labels == c) + np.sum(classes == c))
        for c in np.unique(labels)
    ]
    return float(np.mean(scores)) if scores else None


def evaluation_batches(
    dataset, view: View, batch: int, threads: int = 2, ranks: Ranks = ALONE
) -> Iterable[dict]:  # fmt: skip
    """This rank's rows in order, again and again: decoded once where the pixels fit into memory, else every time."""
    loader = open_loader(dataset, InOrder(dataset, batch, ranks.rank, ranks.world), view, threads)
    held = len(dataset) // ranks.world * view.channels * view.size**2 * 4
    return list(loader) if held <= HELD_BYTES else loader


def _mean(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None
