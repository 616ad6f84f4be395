"""One contract for every backend: (x [R,C,h,w], timestep [R], text states [R,n,d]) -> network output [R,C,h,w]."""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from discl.engine.reproducible import StableAttention, few_queries
from discl.kernels import guided_step

Denoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def torch_denoiser(unet: torch.nn.Module, dtype: torch.dtype, compiled: bool) -> Denoise:
    """Wrap a diffusers UNet; x and timestep arrive in float32. `compiled`: one graph per static shape."""

    def denoise(x: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return unet(x.to(dtype), timestep, encoder_hidden_states=states, return_dict=False)[0]

    if compiled:
        return torch.compile(denoise, dynamic=False)
    levels = len(unet.config.block_out_channels)

    def denoise_eagerly(x: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        odd = x.device.type == "cpu" and few_queries(x.shape[2], x.shape[3], levels)
        with StableAttention() if odd else nullcontext():
            return denoise(x, timestep, states)

    return denoise_eagerly


def advance(
    denoise: Denoise,
    x: torch.Tensor,
    states: torch.Tensor,
    guidance: torch.Tensor | None,
    row: torch.Tensor,
) -> torch.Tensor:
    """One solver step for every slot, each at its own place of its own schedule -> next x [B,C,h,w].

    states: [2B, n, d] (unconditional rows first) when guidance [B] is given, else [B, n, d].
    row: [B, 12] float32: timestep, input scale, then the ten columns of `guided_step`.
    """
    timestep, scale, coef = row[:, 0], row[:, 1, None, None, None], row[:, 2:]
    scaled = x * scale
    if guidance is None:
        return guided_step(x, denoise(scaled, timestep, states), None, timestep, coef, None, None)[0]
    out = denoise(torch.cat([scaled, scaled]), torch.cat([timestep, timestep]), states)
    uncond, cond = out.chunk(2)
    return guided_step(x, cond, uncond, guidance, coef, None, None)[0]
