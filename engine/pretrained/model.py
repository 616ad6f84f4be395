"""The interface that the engine sees: one diffusion model, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from discl.engine.condition import Condition
from discl.engine.text import Text


@dataclass(frozen=True, eq=False)
class DiffusionModel(ABC):
    """A loaded latent-diffusion model.

    pipe: diffusers' img2img pipeline, which owns the modules and its family's way with prompts; it is never called.
    device: of all modules. dtype: of network and texts; the VAE may need more. digest: 32 hex characters over all that
    shapes pixels, LoRA and embeddings included. reload: the same model in fresh modules of another dtype.
    """

    pipe: Any
    device: torch.device
    dtype: torch.dtype
    digest: str
    reload: Callable[[torch.dtype], "DiffusionModel"]

    pipeline: ClassVar[type]  # diffusers' img2img pipeline of this family
    required: ClassVar[tuple[str, ...]]  # the components that it cannot do without

    @classmethod
    def vae_dtype(cls, config: Any, dtype: torch.dtype) -> torch.dtype:
        """What the VAE of this configuration runs in when the network runs in `dtype`."""
        return dtype

    @property
    def unet(self) -> Any:
        return self.pipe.unet

    @property
    def vae(self) -> Any:
        return self.pipe.vae

    @property
    def image_processor(self) -> Any:
        """diffusers' own: PIL <-> [-1, 1]."""
        return self.pipe.image_processor

    @property
    def scheduler_class(self) -> str:
        return type(self.pipe.scheduler).__name__

    @property
    def scheduler_config(self) -> dict:
        return dict(self.pipe.scheduler.config)

    @property
    def multiple(self) -> int:
        """Pixels per latent cell; image sizes are rounded down to it."""
        return self.pipe.vae_scale_factor

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def latent_statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Mean and standard deviation per latent channel, where the family's pipeline normalises by them."""
        return None

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network is told the guidance scale itself (LCM)."""
        return self.unet.config.time_cond_proj_dim is not None

    def guided(self, guidance: float) -> bool:
        """Whether text guidance g takes an unconditional row beside the conditional one."""
        return guidance > 1 and not self.embeds_guidance

    @abstractmethod
    def encode_text(self, text: str, negative: bool) -> Text:
        """One text as the model's own encoders see it; `negative` where it stands for the negative prompt."""

    def condition(self, text: Text, height: int, width: int, guidance: float, negative: bool) -> Condition:
        """What the network is told for this text at height x width pixels and text guidance g, in the model's dtype."""
        ids = self.time_ids(height, width, negative)
        return Condition(
            text.states,
            text.pooled,
            None if ids is None else torch.tensor(ids, dtype=self.dtype, device=self.device),
            self._embedded(guidance) if self.embeds_guidance else None,
        )

    def time_ids(self, height: int, width: int, negative: bool) -> list[float] | None:
        """Micro-conditioning, where the family has it (Podell et al. 2023, section 2.2)."""
        return None

    def reloaded(self, dtype: torch.dtype) -> "DiffusionModel":
        """The same model in fresh modules of another dtype, from the same files."""
        return self.reload(dtype)

    def _embedded(self, guidance: float) -> torch.Tensor:
        """The guidance weight w = g - 1 as sinusoids [e] (Luo et al. 2023, section 4.2)."""
        width = self.unet.config.time_cond_proj_dim
        weight = torch.tensor([guidance - 1.0], dtype=torch.float32)
        embedded = self.pipe.get_guidance_scale_embedding(weight, embedding_dim=width)
        return embedded[0].to(self.device, self.dtype)
