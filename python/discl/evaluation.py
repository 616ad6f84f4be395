"""A classifier and labelled batches become accuracy (overall, many, medium, few) and macro F1."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from discl.loader import open_loader
from discl.ranks import ALONE, Ranks
from discl.sampler import InOrder
from discl.views import View

HELD_BYTES = 256 << 20
WORST = (1, 10, 50, 100, 150, 200)  # k of worst-k classes (paper 5.2)


def measure(
    learner, batches: Iterable[dict], train_counts, few_below: int, many_from: int, compensate: bool = False,
    keep: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> dict:  # fmt: skip
    """`metrics` of a learner over the batches of all its ranks, the same on each of them; rank 0's statistics count.

    keep: gets labels and predicted classes in the split's order. compensate: for the shift from the training images'
    classes to even ones, see `shift`.
    """
    learner.ranks.agree_on(learner.model.buffers())
    parts = learner.ranks.gather(predict(learner.model, batches, shift(train_counts) if compensate else None))
    labels, classes = (interleaved(columns) for columns in zip(*parts, strict=True))
    if keep:
        keep(labels, classes)
    return metrics(labels, classes, train_counts, few_below, many_from)


def interleaved(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The ranks' parts in the order of the whole: rank r has rows r, r + world, ..."""
    out = np.empty(sum(map(len, parts)), parts[0].dtype)
    for rank, part in enumerate(parts):
        out[rank :: len(parts)] = part
    return out


def groups_of(train_counts, few_below: int, many_from: int) -> list[str]:
    """many, medium or few for every class."""
    return ["few" if n < few_below else "many" if n >= many_from else "medium" for n in train_counts]


def shift(train_counts) -> torch.Tensor:
    """float32 [C]: log class shares, taken off the logits: probabilities over shares, renormalised (paper 4.4).

    A class without training images counts as one with one.
    """
    counts = np.maximum(np.asarray(train_counts, np.float64), 1.0)
    return torch.from_numpy(np.log(counts / counts.sum())).float()


@torch.inference_mode()
def predict(
    model: torch.nn.Module, batches: Iterable[dict], shift: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predicted classes, int64 [n] each. The model is left in evaluation mode.

    shift: float32 [C], taken off the logits.
    """
    model.eval()
    device = next(model.parameters()).device
    labels, classes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in batches:
        logits = model(batch["image"].to(device))
        if shift is not None:
            logits = logits - shift.to(device)
        classes.append(logits.argmax(1).cpu().numpy())  # the one place where evaluation waits for the device
        labels.append(batch["label"].numpy())
    return np.concatenate(labels), np.concatenate(classes)


@torch.inference_mode()
def true_class(learner, batches: Iterable[dict]) -> np.ndarray:
    """float64 [n]: the probability of every image's own class. The model is left in evaluation mode."""
    learner.model.eval()
    out = [np.empty(0)]
    for batch in batches:
        shares = torch.softmax(learner.model(batch["image"].to(learner.device)).float(), 1).cpu()
        out.append(shares[torch.arange(len(shares)), batch["label"]].double().numpy())
    return np.concatenate(out)


def metrics(labels, classes, train_counts, few_below: int, many_from: int) -> dict:
    """Top-1 as fractions, pooled over the images of a group; groups by ORIGINAL training counts (paper 5.1).

    few: count < few_below; many: count >= many_from. A group without images is None. `macro_f1` averages over
    the classes that occur in `labels`, as WILDS does. `per_class`: accuracies, None for an absent class. `worst`: by k,
    their mean over the k lowest.
    """
    labels, classes = np.asarray(labels), np.asarray(classes)
    counts = np.asarray(train_counts)[labels]
    right = labels == classes
    few, many = counts < few_below, counts >= many_from
    per_class = [_mean(right[labels == label]) for label in range(len(train_counts))]
    return {
        "overall": _mean(right),
        "many": _mean(right[many]),
        "medium": _mean(right[~few & ~many]),
        "few": _mean(right[few]),
        "macro_f1": macro_f1(labels, classes),
        "worst": {str(k): worst(per_class, k) for k in WORST if k <= sum(one is not None for one in per_class)},
        "per_class": per_class,
    }


def worst(per_class: list[float | None], k: int) -> float:
    """Mean accuracy of the k classes with the lowest."""
    return float(np.mean(sorted(one for one in per_class if one is not None)[:k]))


def macro_f1(labels: np.ndarray, classes: np.ndarray) -> float | None:
    """Mean over the classes in `labels` of 2 * hits / (labelled + predicted)."""
    if not len(labels):
        return None
    most = int(max(labels.max(), classes.max())) + 1
    hits, labelled, predicted = (
        np.bincount(values, minlength=most) for values in (labels[labels == classes], labels, classes)
    )
    there = labelled > 0
    return float(np.mean(2 * hits[there] / (labelled + predicted)[there]))


def evaluation_batches(
    dataset, view: View, batch: int, threads: int = 2, ranks: Ranks = ALONE
) -> Iterable[dict]:  # fmt: skip
    """This rank's rows in order, again and again: decoded once where the pixels fit into memory, else every time."""
    loader = open_loader(dataset, InOrder(dataset, batch, ranks.rank, ranks.world), view, threads)
    held = len(dataset) // ranks.world * view.channels * view.size**2 * 4
    return list(loader) if held <= HELD_BYTES else loader


def _mean(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None
