"""A model at one dtype with what belongs to it: its denoiser, autoencoder and the caches of texts and sources."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from discl.engine.autoencoder import Autoencoder
from discl.engine.backends.backend import Backend, clear
from discl.engine.condition import Condition
from discl.engine.denoiser import denoiser
from discl.engine.parts import unet_part
from discl.engine.pretrained import DiffusionModel
from discl.engine.reproducible import stable_rows
from discl.engine.sources import Sources
from discl.engine.text import Texts

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer

CONDITIONS_KEPT = 1024  # they share the texts' memory
DECODE_BATCH = 8
SCORE_BATCH = 8  # fixed, so that a score depends on the image alone and not on the slots
PREVIEW_BATCH = 32


class Networks:
    """The rooms that one dtype of the model needs.

    backend: what runs them. slots: requests that share a batch; from them follows how many latents are decoded together
    and how many previews are judged together. latents: whether sources are turned into latents at all. stream: where
    images are scored, beside the denoiser's.
    """

    def __init__(
        self,
        model: DiffusionModel,
        scorer: "Scorer | None",
        device: torch.device,
        *,
        backend: Backend,
        slots: int,
        latents: bool = True,
        stream: torch.cuda.Stream | None = None,
    ):
        self.model = model
        self._unet = backend.function(unet_part(model))
        self.denoise = denoiser(self._unet)
        self.autoencoder = Autoencoder(model, device, micro_batch(slots), backend)
        self.preview_batch = preview_batch(slots)
        self.sources = Sources(self.autoencoder, scorer, model.multiple, latents, stream)
        self.texts = Texts(model.encode_text)
        self.condition = lru_cache(CONDITIONS_KEPT)(self._condition)

    def _condition(self, text: str, height: int, width: int, guidance: float, negative: bool) -> Condition:
        """What the network is told for a prompt (or negative prompt) at a size and text guidance."""
        return self.model.condition(self.texts(text, negative), height, width, guidance, negative)

    def resize(self, slots: int) -> None:
        """Memory ran out or came back: work in the batches of other slots, and hold no graph of the old sizes."""
        self.autoencoder.resize(micro_batch(slots))
        self.preview_batch = preview_batch(slots)
        clear(self._unet)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        cell = self.model.multiple
        return self.model.latent_channels, height // cell, width // cell


def micro_batch(slots: int) -> int:
    """Rows that are decoded together: about as many as finish together."""
    return stable_rows(min(slots, DECODE_BATCH))


def preview_batch(slots: int) -> int:
    """Previews that are judged together: at most half of the slots, or what is decoded together.

    As many requests as slots have a place beside those that fill the rows, so the rows stay full while one batch of
    previews gathers and another is under way.
    """
    half = slots // 2 // 4 * 4  # see `stable_rows`
    return max(min(half, PREVIEW_BATCH), micro_batch(slots))
