"""Logits and labels in, a mean loss out. Labels of IGNORED rows (padding) do not count."""

import numpy as np
import torch
import torch.nn.functional as F

IGNORED = -1


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy of logits [n, C] + prior [C] against labels int64 [n]: the sum over `rows`, or over all of n.

    Where ranks divide by the same `rows`, the global batch's share of each, the mean over ranks is the global mean.

    A prior of zeros is plain cross-entropy; log class counts make it balanced softmax (Ren et al. 2020). At
    test time the logits are used alone (paper 4.4).
    """
    scores = logits.float() + prior
    if rows is None:
        return F.cross_entropy(scores, labels, ignore_index=IGNORED)
    return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum") / rows


def no_prior(counts: np.ndarray) -> torch.Tensor:
    """Plain cross-entropy: float32 [C] of zeros."""
    return torch.zeros(len(counts))


def log_prior(counts: np.ndarray) -> torch.Tensor:
    """Balanced softmax: float32 [C], log counts of the stage's images. A class with none counts as one."""
    return torch.from_numpy(np.log(np.maximum(np.asarray(counts, dtype=np.float64), 1.0))).float()


PRIORS = {"ce": no_prior, "balanced-softmax": log_prior, "flyp": no_prior}
