"""One contract for every backend: (x [R,C,h,w], timestep [R], condition [R,...]) -> network output [R,C,h,w]."""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from discl.engine.condition import Condition
from discl.engine.reproducible import StableAttention, few_queries
from discl.kernels import guided_step

Denoise = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]


def torch_denoiser(unet: torch.nn.Module, dtype: torch.dtype, compiled: bool) -> Denoise:
    """Wrap a diffusers UNet; x and timestep arrive in float32. `compiled`: one graph per static shape."""

    def denoise(x: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        added = {"text_embeds": condition.pooled, "time_ids": condition.time_ids}
        return unet(
            x.to(dtype),
            timestep,
            encoder_hidden_states=condition.states,
            timestep_cond=condition.guidance,
            added_cond_kwargs=None if condition.pooled is None else added,
            return_dict=False,
        )[0]

    if compiled:
        return torch.compile(denoise, dynamic=False)
    levels = len(unet.config.block_out_channels)

    def denoise_eagerly(x: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        odd = x.device.type == "cpu" and few_queries(x.shape[2], x.shape[3], levels)
        with StableAttention() if odd else nullcontext():
            return denoise(x, timestep, condition)

    return denoise_eagerly


def advance(
    denoise: Denoise,
    x: torch.Tensor,
    condition: Condition,
    guidance: torch.Tensor | None,
    row: torch.Tensor,
) -> torch.Tensor:
    """One solver step for every slot, each at its own place of its own schedule -> next x [B,C,h,w].

    condition: 2B rows (unconditional ones first) when guidance [B] is given, else B.
    row: [B, 12] float32: timestep, input scale, then the ten columns of `guided_step`.
    """
    timestep, scale, coef = row[:, 0], row[:, 1, None, None, None], row[:, 2:]
    scaled = x * scale
    if guidance is None:
        return guided_step(x, denoise(scaled, timestep, condition), None, timestep, coef, None, None)[0]
    out = denoise(torch.cat([scaled, scaled]), torch.cat([timestep, timestep]), condition)
    uncond, cond = out.chunk(2)
    return guided_step(x, cond, uncond, guidance, coef, None, None)[0]
