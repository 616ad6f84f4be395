"""Source image -> posterior moments -> start latent, and latents -> uint8 images."""

from dataclasses import dataclass

import torch
from PIL import Image

from discl.engine.noise_schedule import Trajectory
from discl.engine.pretrained import DiffusionModel
from discl.kernels import to_uint8


@dataclass(frozen=True, eq=False)
class Moments:
    """The VAE posterior of one source: mean and standard deviation, float32 [1, C, h, w]."""

    mean: torch.Tensor
    std: torch.Tensor


class Autoencoder:
    """The model's VAE. Sources are encoded one by one; latents are decoded in padded micro-batches of one size."""

    def __init__(self, model: DiffusionModel, device: torch.device, dtype: torch.dtype, batch: int):
        self.vae = model.vae
        self.processor = model.image_processor
        self.scale = model.vae.config.scaling_factor
        self.device, self.dtype, self.batch = device, dtype, batch

    def encode(self, image: Image.Image, height: int, width: int) -> Moments:
        """RGB image of any size -> moments at [height/f, width/f]; resized as diffusers does (Lanczos)."""
        pixels = self.processor.preprocess(image, height=height, width=width)
        posterior = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist
        return Moments(posterior.mean.float(), posterior.std.float())

    def decode(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [n, C, h, w], n <= batch -> uint8 [n, H, W, 3] and whether each is finite, bool [n]."""
        padded = torch.zeros(self.batch, *latents.shape[1:], device=self.device, dtype=self.dtype)
        padded[: len(latents)] = latents / self.scale
        decoded = self.vae.decode(padded, return_dict=False)[0]
        finite = torch.isfinite(decoded).flatten(1).all(1)
        return to_uint8(decoded)[: len(latents)], finite[: len(latents)]

    def start_latent(self, moments: Moments, noise_seed: int, trajectory: Trajectory) -> torch.Tensor:
        """A trajectory's noised start [C, h, w]; one CPU generator draws posterior sample, then noise."""
        rng = torch.Generator("cpu").manual_seed(noise_seed)
        draw, noise = (torch.randn(moments.mean.shape, generator=rng).to(self.device) for _ in range(2))
        latent = (moments.mean + moments.std * draw) * self.scale
        return (trajectory.signal * latent + trajectory.sigma * noise)[0]
