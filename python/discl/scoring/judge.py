"""Image embeddings and the classes they should show in, a table of scores out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from discl.kernels import score_rows
from discl.prompts import class_embeddings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from discl.engine.scorer import Scorer
    from discl.scoring.classifier import TaskClassifier
    from discl.scoring.pictures import Block
    from discl.scoring.real import RealImages

NO_EMBEDDING = "its embedding is missing or not finite"


@dataclass
class Judge:
    """A scorer with the classes' texts, and further texts and real images that it may compare with."""

    scorer: "Scorer"
    class_names: list[str]
    prompt: str
    negatives: tuple[str, ...] = ()
    real: "RealImages | None" = None
    classifier: "TaskClassifier | None" = None
    texts: "torch.Tensor" = field(init=False)
    negative_texts: "torch.Tensor" = field(init=False)

    def __post_init__(self) -> None:
        self.texts = class_embeddings(self.scorer, self.prompt, self.class_names, "--prompt")
        self.negative_texts = self.scorer.embed_texts(list(self.negatives))

    def scored(
        self, first: Mapping[str, Any], block: "Block", classes: np.ndarray, sources: list[str | None]
    ) -> pa.Table:
        """A block's columns of its own, then its scores as in `table`."""
        import torch

        images = block.images() if self.classifier else []
        table = self.table(torch.from_numpy(block.embedded), classes, sources, images)
        return pa.table({**first, **dict(zip(table.column_names, table.columns, strict=True))})

    def table(
        self, embeddings: "torch.Tensor", classes: np.ndarray, sources: list[str | None], images: "list[Image | None]"
    ) -> pa.Table:
        """Scores of N images: float32 [N, D] on any device, class numbers, source ids (for real images),
        decoded images where there are any (for the classifier).

        text_score, margin, rank (1: no class has a higher cosine); with negative texts `negative_score`, the highest
        cosine with one of them; then those of `RealImages` and `TaskClassifier`. A row that is not finite has nulls
        and a `reason`.
        """
        import torch

        vectors = embeddings.to(self.texts.device, torch.float32)
        finite = torch.isfinite(vectors).all(1)
        vectors = torch.where(finite[:, None], vectors, 0)
        labels = torch.from_numpy(classes.astype(np.int64)).to(vectors.device)
        scores = score_rows(vectors, self.texts, labels, torch.zeros_like(labels), None, 0.0, 1)
        columns: dict[str, np.ndarray] = {
            "text_score": scores.text_score.cpu().numpy(),
            "margin": scores.margin.cpu().numpy(),
            "rank": scores.rank.cpu().numpy(),
        }
        if self.negatives:
            columns["negative_score"] = (vectors @ self.negative_texts.T).amax(1).cpu().numpy()
        bad = ~finite.cpu().numpy()
        made = {name: pa.array(values, mask=bad) for name, values in columns.items()}
        if self.real:
            made |= self.real.columns(vectors, classes, sources, bad)
        if self.classifier:
            made |= self.classifier.columns(images, [self.class_names[label] for label in classes.tolist()])
        reasons = [NO_EMBEDDING if each else None for each in bad]
        return pa.table({**made, "reason": pa.array(reasons, pa.string())})
