"""Images and texts in, CLIP embeddings out: float32, normalised, the same whatever stands beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from discl.engine.backends.backend import Backend
from discl.engine.backends.torch import TorchBackend
from discl.engine.clip_checkpoint import ClipCheckpoint, load_clip
from discl.engine.last_layer import read_one_token
from discl.engine.parts import clip_image_part, clip_text_part
from discl.engine.patches import multiply_patches
from discl.engine.reproducible import make_rowwise
from discl.engine.transfer import upload
from discl.kernels import ClipPlan, clip_input, clip_pictures, clip_window

PLANS_KEPT = 64  # sources come in many sizes; a plan is about 1 MB
TEXTS_KEPT = 16384  # captions can all differ; an embedding is about 2 KB


class Scorer:
    """A CLIP model that judges images; `discl.kernels.cosine_scores` turns its embeddings into scores.

    name: as given. digest: 32 hex characters of configuration and weights. width: of an embedding (D).
    Both towers always run on exactly `batch` rows, padded with zeros, unless a call names another number: a result then
    does not depend on its neighbours, and one shape can be compiled. backend: what runs them, by default eager torch.
    float32 cosines are open_clip's to 1e-5; bfloat16 moves them as far as it does open_clip's: 1e-3 on average, at most
    1e-2 in random towers with large weights.
    """

    def __init__(
        self,
        name: str,
        checkpoint: ClipCheckpoint,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int = 16,
        backend: Backend | None = None,
    ):
        if batch < 1:
            raise ValueError(f"batch: expected at least 1, given {batch}")
        self.name = name
        self.digest = checkpoint.digest
        self.width = checkpoint.width
        self.device, self.dtype, self.batch = torch.device(device), dtype, batch
        self.model = checkpoint.model.to(self.device, dtype)
        if self.device.type == "cpu":
            make_rowwise(self.model)
            read_one_token(self.model.visual)
            multiply_patches(self.model.visual)
        backend = backend or TorchBackend(self.device)
        self._image_tower = backend.function(clip_image_part(checkpoint))
        self._text_tower = backend.function(clip_text_part(checkpoint))
        self._tokenize = checkpoint.tokenize
        self._texts: dict[str, torch.Tensor] = {}
        build = functools.partial(ClipPlan.build, preprocess=checkpoint.preprocess, device=self.device)
        self._plan = functools.lru_cache(PLANS_KEPT)(build)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int = 16,
        backend: Backend | None = None,
    ) -> Scorer:
        """Loads "ViT-B-32:openai", "ViT-B-32:file.safetensors", "hf-hub:org/name" or an open_clip folder.

        Raises ModelError where that cannot be done (see `load_clip`).
        """
        return cls(name, load_clip(name), device, dtype, batch, backend)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [n, D], normalised, on the scorer's device. A text is encoded once and remembered."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if missing:
            tokens = upload(self._tokenize(missing), self.device)
            self._texts.update(zip(missing, self._embed(tokens, self._text_tower), strict=True))
        found = [self._texts[text] for text in texts]
        while len(self._texts) > TEXTS_KEPT:
            del self._texts[next(iter(self._texts))]
        return torch.stack(found) if found else torch.empty(0, self.width, dtype=torch.float32, device=self.device)

    def same_text(self, texts: Sequence[str]) -> tuple[int, int] | None:
        """The first two of the texts that the tokenizer makes the same of, None where all differ.

        Most lower the case, and all cut off what is beyond the model's context.
        """
        seen: dict[tuple[int, ...], int] = {}
        for place, tokens in enumerate(map(tuple, self._tokenize(list(texts)).tolist())):
            if seen.setdefault(tokens, place) != place:
                return seen[tokens], place
        return None

    @torch.no_grad()
    def embed_images(self, images: torch.Tensor, batch: int | None = None) -> torch.Tensor:
        """uint8 RGB [B, H, W, 3] -> float32 [B, D], normalised, on the scorer's device.

        Resize, crop and normalisation equal open_clip's on PIL images. batch: rows that the tower runs on, if not the
        scorer's; the last bits are those of this batch. Raises ValueError for other inputs.
        """
        if images.ndim != 4:
            raise ValueError(f"images: expected uint8 [B, H, W, 3], given {list(images.shape)}")
        plan = self._plan(images.shape[1], images.shape[2])
        tower = lambda chunk: self._image_tower(clip_input(chunk, plan, self.dtype))  # noqa: E731
        return self._embed(upload(images, self.device), tower, batch)

    @torch.no_grad()
    def embed_mixed(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """uint8 RGB [H, W, 3] of any sizes, on any device -> as `embed_images`, in their order.

        Sizes differ only before the tower, whose batches are full whatever they hold.
        """
        if self.device.type == "cpu":
            return self._embed_chunks([image.cpu() for image in images], self._resized)
        return self._embed_chunks(images, self._inputs)

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 RGB [H, W, 3] on the CPU -> uint8 [h, w, 3], what the tower sees of it; on a CPU their embeddings are
        equal. For any thread: a large image need not be kept until it is embedded.
        """
        return clip_window(image, self._plan(*image.shape[:2]))

    @torch.no_grad()
    def embed_pil(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """PIL images of any sizes and modes (converted to RGB) -> float32 [n, D], in their order."""
        pictures = [image if image.mode == "RGB" else image.convert("RGB") for image in images]
        if self.device.type != "cpu":
            return self.embed_mixed([torch.from_numpy(np.array(picture)) for picture in pictures])
        for picture in pictures:
            picture.load()  # one that stands here twice must not be read by two threads
        return self._embed_chunks(pictures, self._resized)

    def _embed_chunks(self, images: Sequence[Any], inputs: Callable[[Sequence[Any]], torch.Tensor]) -> torch.Tensor:
        result = torch.empty(len(images), self.width, dtype=torch.float32, device=self.device)
        for start in range(0, len(images), self.batch):
            chunk = images[start : start + self.batch]
            result[start : start + self.batch] = self._embed(inputs(chunk), self._image_tower)
        return result

    def _resized(self, images: Sequence[Image.Image | torch.Tensor]) -> torch.Tensor:
        """What the image tower eats, on a CPU: whatever their sizes, images are read where they lie."""
        sizes = [image.size[::-1] if isinstance(image, Image.Image) else image.shape[:2] for image in images]
        return clip_pictures(images, [self._plan(height, width) for height, width in sizes], self.dtype)

    def _inputs(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """The same on a device: made for all images of one size on one device together, and in their order."""
        groups: dict[tuple, list[int]] = {}
        for at, image in enumerate(images):
            groups.setdefault((image.device, *image.shape[:2]), []).append(at)
        pieces = []
        for (_, height, width), places in groups.items():
            pixels = upload(torch.stack([images[at] for at in places]), self.device)
            pieces.append(clip_input(pixels, self._plan(height, width), self.dtype))
        if len(pieces) == 1:
            return pieces[0]
        order = torch.tensor([at for places in groups.values() for at in places]).argsort()
        return torch.cat(pieces)[upload(order, self.device)]

    def _embed(
        self, rows: torch.Tensor, tower: Callable[[torch.Tensor], torch.Tensor], batch: int | None = None
    ) -> torch.Tensor:
        batch = batch or self.batch
        result = torch.empty(len(rows), self.width, dtype=torch.float32, device=self.device)
        for start in range(0, len(rows), batch):
            chunk = rows[start : start + batch]
            missing = batch - len(chunk)
            whole = torch.cat([chunk, chunk.new_zeros(missing, *chunk.shape[1:])]) if missing else chunk
            result[start : start + batch] = tower(whole)[: len(chunk)]
        return result
