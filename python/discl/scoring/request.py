"""What `discl score` is asked for, and the definition of its scores by which a later call knows them again."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discl.quarantine import Record
from discl.scoring.judge import Judge

if TYPE_CHECKING:
    from discl.data import DataTable
    from discl.engine.scorer import Scorer


@dataclass(frozen=True)
class ScoreRequest:
    """Which CLIP judges by which texts.

    name: of scores/<name>/. clip: as [score] clip. pixels: decode images also where embeddings of this CLIP are kept.
    data: real images for image, centroid and leakage scores; its classes then compete for margin and rank, else those
    of the store. classifier: a training's folder, for confidence. backend: runs both towers, as [model] backend;
    exported: the folder that `discl export` wrote for it with this CLIP. batch: images per forward pass, of which at
    least 64 are read and decoded together, and some batches ahead.
    """

    name: str
    clip: str
    prompt: str = "a photo of a {class}"
    negatives: tuple[str, ...] = ()
    pixels: bool = False
    data: "DataTable | None" = None
    classifier: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 64
    backend: str = "torch"
    exported: str | None = None

    def scorer(self) -> "Scorer":
        import torch

        from discl.engine.backends import open_backend
        from discl.engine.options import find_device
        from discl.engine.scorer import Scorer

        device = find_device(self.device)
        backend = open_backend(self.backend, device, self.exported)
        return Scorer.from_pretrained(self.clip, device, getattr(torch, self.dtype), self.batch, backend)

    def judge(self, class_names: list[str], record: Record) -> Judge:
        """The judge of these classes, loaded, with real images and classifier where they are asked for."""
        scorer = self.scorer()
        judge = Judge(scorer, class_names, self.prompt, self.negatives)
        if self.data is not None:
            from discl.scoring.real import RealImages

            judge.real = RealImages(scorer, self.data, class_names, record)
        if self.classifier is not None:
            from discl.scoring.classifier import TaskClassifier

            judge.classifier = TaskClassifier(self.classifier, str(scorer.device))
        return judge

    def definition(self, clip_digest: str, class_names: list[str]) -> dict[str, Any]:
        """What the scores depend on; `digest` tells whether files of an earlier call still hold."""
        from discl.scoring.classifier import state_of

        ids = (
            None if self.data is None else hashlib.blake2b("\n".join(self.data.ids).encode(), digest_size=8).hexdigest()
        )
        facts = {
            "clip": self.clip,
            "clip_digest": clip_digest,
            "prompt": self.prompt,
            "negatives": list(self.negatives),
            "classes": class_names,
            "pixels": self.pixels,
            "dtype": self.dtype,
            "real_images": ids,
            "classifier": state_of(self.classifier) if self.classifier else None,
        }
        if self.backend != "torch":
            facts["backend"] = self.backend
        return facts | {"digest": hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()}
