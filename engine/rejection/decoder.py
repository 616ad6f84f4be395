"""x0 latents in, small images out: what the VAE would decode, closely enough for CLIP, at a few percent of its cost.

Three convolutions at the latent's own resolution, then every cell unfolds into a square of pixels. It is fitted to the
model's own VAE when a rejection rule is calibrated; how well it does shows in the rule's bound, never in its promise.
"""

import base64
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HIDDEN = 32
CELL = 4  # pixels a side that a latent cell becomes, at most: 64 x 64 latents give 256 x 256, enough for CLIP
STEPS, BATCH, RATE = 1500, 32, 3e-3
CROP = 16  # latent cells a side that a fitting step sees


class SmallDecoder(nn.Module):
    """latents [n, C, h, w] -> images [n, 3, cell*h, cell*w] in 0..1, not clamped."""

    def __init__(self, channels: int, cell: int):
        super().__init__()
        self.channels, self.cell = channels, cell
        self.register_buffer("mean", torch.zeros(channels, 1, 1, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(channels, 1, 1, dtype=torch.float32))
        self.layers = nn.Sequential(
            nn.Conv2d(channels, HIDDEN, 3, padding=1, dtype=torch.float32),
            nn.ReLU(),
            nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, dtype=torch.float32),
            nn.ReLU(),
            nn.Conv2d(HIDDEN, 3 * cell**2, 3, padding=1, dtype=torch.float32),
            nn.PixelShuffle(cell),
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers((latents - self.mean) / self.scale)

    @torch.no_grad()
    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """uint8 [n, H, W, 3]."""
        images = self(latents.float()).nan_to_num(nan=0.0).clamp(0, 1)
        return images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def to_json(self) -> dict[str, Any]:
        weights = {name: _packed(value) for name, value in self.state_dict().items()}
        return {"channels": self.channels, "cell": self.cell, "weights": weights}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SmallDecoder":
        decoder = cls(int(value["channels"]), int(value["cell"]))
        shapes = {name: tensor.shape for name, tensor in decoder.state_dict().items()}
        decoder.load_state_dict({name: _unpacked(value["weights"][name], shape) for name, shape in shapes.items()})
        return decoder.requires_grad_(False).eval()


def fit_decoder(latents: torch.Tensor, images: torch.Tensor, seed: int = 0) -> SmallDecoder:
    """Fit to pairs: latents [n, C, h, w] and what the VAE decodes them to, uint8 [n, H, W, 3]. Fixed by `seed`."""
    cell = min(CELL, images.shape[1] // latents.shape[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = SmallDecoder(latents.shape[1], cell)
    latents, targets = latents.float(), _shrunk(images, latents.shape[2] * cell, latents.shape[3] * cell)
    decoder.mean = latents.mean((0, 2, 3)).cpu()[:, None, None]
    decoder.scale = latents.std((0, 2, 3)).cpu()[:, None, None] + 1e-6
    decoder = decoder.to(latents.device)
    with torch.enable_grad():
        _train(decoder, latents, targets, torch.Generator().manual_seed(seed))
    return decoder.requires_grad_(False).eval()


def _train(decoder: SmallDecoder, latents: torch.Tensor, targets: torch.Tensor, rng: torch.Generator) -> None:
    optimizer = torch.optim.Adam(decoder.layers.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    cell = decoder.cell
    for _ in range(STEPS):
        rows = torch.randint(len(latents), (BATCH,), generator=rng)
        top, left = (int(torch.randint(max(side - CROP, 0) + 1, (), generator=rng)) for side in latents.shape[2:])
        seen = latents[rows, :, top : top + CROP, left : left + CROP]
        wanted = targets[rows, :, top * cell : (top + CROP) * cell, left * cell : (left + CROP) * cell]
        loss = F.mse_loss(decoder(seen), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _shrunk(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 [n, H, W, 3] -> float [n, 3, height, width] in 0..1."""
    return F.interpolate(images.permute(0, 3, 1, 2).float() / 255, (height, width), mode="area")


def _packed(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.cpu().numpy().astype("<f4").tobytes()).decode()


def _unpacked(text: str, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").reshape(shape).copy())
