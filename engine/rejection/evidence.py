"""What a verdict is made from: previews, the source and the text in, feature columns for `Logistic` out.

A look at a preview is LOOK numbers, in this order: its text score, its margin (text score less the best other text's),
its image score (against the source), and the logarithm of the guidance gap ||cond - uncond||^2 of the last step.
"""

import numpy as np
import torch

LOOK = 4
TEXT_SCORE, MARGIN, IMAGE_SCORE, GAP = range(LOOK)
TINY = 1e-12  # squared gap of a step without text guidance
AT_ONCE = 2**22  # products that `_best_other` may hold: few texts are compared with all previews together


def look(
    embeddings: torch.Tensor, texts: torch.Tensor, others: torch.Tensor, own: torch.Tensor, sources: torch.Tensor,
    gaps: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Embeddings of previews [n, D], their texts [n, D], every text [T, D] with each preview's own marked in `own` bool
    [n, T], sources' embeddings [n, D] and squared gaps [n] -> looks float32 [n, LOOK]."""
    score = (embeddings * texts).sum(1)
    columns = [score, score - _best_other(embeddings, others, own), (embeddings * sources).sum(1)]
    return torch.stack([*columns, gaps.float().clamp_min(TINY).log()], 1)


def source_scores(
    embeddings: torch.Tensor, texts: torch.Tensor, others: torch.Tensor, own: torch.Tensor
) -> torch.Tensor:
    """Text score and margin of the sources themselves, float32 [n, 2]."""
    score = (embeddings * texts).sum(1)
    return torch.stack([score, score - _best_other(embeddings, others, own)], 1)


def _best_other(embeddings: torch.Tensor, others: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """0 where there is no other. Sums of products: the last bits of a matrix product depend on a row's place in it."""
    together = len(embeddings) if len(embeddings) * others.numel() <= AT_ONCE else 1
    scores = torch.cat([(rows[:, None] * others).sum(2) for rows in embeddings.split(together)])
    return scores.masked_fill(own, -torch.inf).amax(1).nan_to_num(neginf=0.0)


def evidence(looks: np.ndarray, source: np.ndarray, prior: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, int]:
    """Columns [n, F] after the last of `looks` [n, checks, LOOK], and how many of them are curved.

    source [n, 2]: its text score and margin. prior [n]: log-odds that this text is accepted. threshold [n]: text scores
    count from it.
    """
    now, before = looks[:, -1:], looks[:, :-1]
    scores = looks[..., TEXT_SCORE] - threshold[:, None]
    slopes = [now[..., column] - before[..., column] for column in (TEXT_SCORE, MARGIN)]
    curved = [scores[:, -1:], now[..., MARGIN], now[..., IMAGE_SCORE], scores[:, :-1]]
    expected, _ = expectation(source, prior, threshold)
    straight = [now[..., GAP], expected, *slopes]
    return np.concatenate([*curved, *straight], 1, dtype=np.float64), 2 + scores.shape[1]


def expectation(source: np.ndarray, prior: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, int]:
    """Columns [n, 3] of what is known before any preview, and how many of them are curved."""
    return np.column_stack([source[:, 0] - threshold, source[:, 1], prior]).astype(np.float64), 2
