"""A request's standard-normal draws, in diffusers' order: float32 on the CPU, whatever the model's device and dtype.

diffusers draws in the pipeline's dtype; in float32 the two are the same numbers. Keeping float32 for the others gives
a request the same noise in every dtype, so that a dtype's effect can be measured, and finer noise than half precision.
"""

import torch


class Noise:
    """The generator of one request. Shapes are [1, C, h, w], as diffusers draws for one image."""

    def __init__(self, seed: int, latent_shape: tuple[int, int, int]):
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._shape = (1, *latent_shape)

    def draw(self, into: torch.Tensor | None = None) -> torch.Tensor:
        """The next draw [1, C, h, w], float32; with `into` (of that shape) written there."""
        if into is None:
            return torch.randn(self._shape, generator=self._generator, dtype=torch.float32)
        return torch.randn(self._shape, generator=self._generator, out=into)
