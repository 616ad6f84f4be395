"""Source images -> posterior moments and CLIP embedding, each distinct image encoded once.

Two halves: `read` is host work (decode, digest, resize) and may run in a thread ahead of the device; `encode` is the
device's.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from discl.engine.autoencoder import Autoencoder, Moments
from discl.engine.request import Request
from discl.engine.transfer import beside

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer

READ_AHEAD = 8  # resized images kept until the device asks for them; others are resized again


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded source: RGB, the size of the image to be made, and a key that equal pixels share."""

    image: Image.Image
    height: int
    width: int
    key: tuple


@dataclass(frozen=True, eq=False)
class Source:
    """What is kept of a source: its posterior moments (None where no latent is made of it) and, with a scorer, its
    embedding [D]."""

    moments: Moments | None
    embedding: torch.Tensor | None


class Sources:
    """An LRU cache keyed by pixels, so that equal images are encoded once however they were opened.

    latents: whether the moments are wanted at all (not in pure-noise mode). stream: where embeddings are computed.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        scorer: "Scorer | None",
        multiple: int,
        latents: bool = True,
        stream: torch.cuda.Stream | None = None,
        capacity: int = 256,
    ):
        self._autoencoder, self._scorer, self._multiple = autoencoder, scorer, multiple
        self._latents, self._stream, self._capacity = latents, stream, capacity
        self._sources: OrderedDict[tuple, Source] = OrderedDict()
        self._resized: OrderedDict[tuple, torch.Tensor] = OrderedDict()

    def read(self, request: Request) -> Picture:
        """Decode a request's image and, where its latent is not known yet, resize it. Safe beside `encode`.

        Raises ValueError for a size below one latent cell, and whatever Pillow raises for what it cannot decode.
        """
        image = request.rgb()
        if not image.width or not image.height:
            raise ValueError(f"{image.width} x {image.height} pixels: there is nothing to start from")
        wanted = request.size or image.size
        width, height = (side - side % self._multiple for side in wanted)
        if min(width, height) < self._multiple:
            raise ValueError(
                f"{wanted[0]} x {wanted[1]} pixels: a latent cell alone has {self._multiple} pixels a side; "
                f"give an image or a size of at least {self._multiple} x {self._multiple}"
            )
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        picture = Picture(image, height, width, (digest, image.size, height, width))
        if self._latents and picture.key not in self._sources and picture.key not in self._resized:
            self._resized[picture.key] = self._autoencoder.preprocess(image, height, width)
            if len(self._resized) > READ_AHEAD:
                self._resized.popitem(last=False)
        return picture

    def encode(self, picture: Picture) -> Source:
        """The source of a picture."""
        key = picture.key
        if key not in self._sources:
            self._sources[key] = Source(self._moments(picture), self._embedding(picture))
            self._resized.pop(key, None)
            if len(self._sources) > self._capacity:
                self._sources.popitem(last=False)
        self._sources.move_to_end(key)
        return self._sources[key]

    def clear(self) -> None:
        self._sources.clear()
        self._resized.clear()

    def _moments(self, picture: Picture) -> Moments | None:
        if not self._latents:
            return None
        pixels = self._resized.get(picture.key)
        if pixels is None:
            pixels = self._autoencoder.preprocess(picture.image, picture.height, picture.width)
        return self._autoencoder.encode(pixels)

    def _embedding(self, picture: Picture) -> torch.Tensor | None:
        with beside(self._stream):
            return self._scorer.embed_pil([picture.image])[0] if self._scorer else None
