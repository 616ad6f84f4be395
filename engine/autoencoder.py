"""Source image -> posterior moments -> clean latent, and latents -> uint8 images."""

from dataclasses import dataclass

import torch
from PIL import Image

from discl.engine.backends.backend import Backend, clear
from discl.engine.backends.torch import TorchBackend
from discl.engine.parts import vae_decoder_part, vae_encoder_part
from discl.engine.pretrained import DiffusionModel
from discl.engine.transfer import upload
from discl.kernels import to_uint8


@dataclass(frozen=True, eq=False)
class Moments:
    """The VAE posterior of one source: mean and standard deviation, float32 [1, C, h, w]."""

    mean: torch.Tensor
    std: torch.Tensor


class Autoencoder:
    """The model's VAE. Sources are encoded one by one; latents are decoded in padded micro-batches of one size.

    It works in the VAE's own dtype, which may be wider than the network's. backend: what runs it (default: torch).
    """

    def __init__(self, model: DiffusionModel, device: torch.device, batch: int, backend: Backend | None = None):
        self.dtype = model.vae.dtype
        self.processor = model.image_processor
        self.device, self.batch = device, batch
        # What the network calls a latent is (z - mean) * scale for the VAE's z.
        self.mean, self.scale = _normalisation(model, device)
        backend = backend or TorchBackend(device)
        self._posterior = backend.function(vae_encoder_part(model))
        self._pixels = backend.function(vae_decoder_part(model))

    def preprocess(self, image: Image.Image, height: int, width: int) -> torch.Tensor:
        """RGB image of any size -> [1, 3, height, width] in [-1, 1] on the host, resized as diffusers does."""
        return self.processor.preprocess(image, height=height, width=width)

    def encode(self, pixels: torch.Tensor) -> Moments:
        """[1, 3, H, W] in [-1, 1] -> moments at [H/f, W/f]."""
        return Moments(*self._posterior(upload(pixels, self.device)))

    def clean_latent(self, moments: Moments, draw: torch.Tensor) -> torch.Tensor:
        """The posterior sample [1, C, h, w] in the network's scale, for one standard-normal draw of that shape."""
        return (moments.mean + moments.std * draw - self.mean) * self.scale

    def decode(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [n, C, h, w], n <= batch -> uint8 [n, H, W, 3] and whether each is finite, bool [n]."""
        padded = torch.zeros(self.batch, *latents.shape[1:], device=self.device, dtype=self.dtype)
        padded[: len(latents)] = latents / self.scale + self.mean
        decoded = self._pixels(padded)
        finite = torch.isfinite(decoded).flatten(1).all(1)
        return to_uint8(decoded)[: len(latents)], finite[: len(latents)]

    def resize(self, batch: int) -> None:
        """Decode `batch` latents together from now on."""
        self.batch = batch
        clear(self._pixels)


def _normalisation(model: DiffusionModel, device: torch.device) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """Mean and factor of a latent: numbers, or [C, 1, 1] where the model has statistics per channel."""
    factor = model.vae.config.scaling_factor
    if model.latent_statistics is None:
        return 0.0, factor
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in model.latent_statistics
    )
    return mean, factor / std
