"""Source images -> posterior moments and CLIP embedding, each distinct image encoded once."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from discl.engine.autoencoder import Autoencoder, Moments

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer


@dataclass(frozen=True, eq=False)
class Source:
    """What is kept of a source: its posterior moments and, with a scorer, its embedding [D]."""

    moments: Moments
    embedding: torch.Tensor | None


class Sources:
    """An LRU cache keyed by pixels, so that equal images are encoded once however they were opened."""

    def __init__(self, autoencoder: Autoencoder, scorer: "Scorer | None", capacity: int = 256):
        self._autoencoder, self._scorer, self._capacity = autoencoder, scorer, capacity
        self._sources: OrderedDict[tuple, Source] = OrderedDict()

    def __call__(self, image: Image.Image, height: int, width: int) -> Source:
        """The source of an RGB image whose latent is made at `height` x `width` pixels."""
        key = (hashlib.blake2b(image.tobytes(), digest_size=16).digest(), image.size, height, width)
        if key not in self._sources:
            embedding = self._scorer.embed_pil([image])[0] if self._scorer else None
            self._sources[key] = Source(self._autoencoder.encode(image, height, width), embedding)
            if len(self._sources) > self._capacity:
                self._sources.popitem(last=False)
        self._sources.move_to_end(key)
        return self._sources[key]

    def clear(self) -> None:
        self._sources.clear()
