"""One contract for every backend: (x [R,C,h,w], timestep [R], condition [R,...]) -> network output [R,C,h,w]."""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from discl.engine.condition import Condition
from discl.engine.reproducible import StableAttention, few_queries

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
