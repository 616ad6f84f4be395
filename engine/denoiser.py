"""One contract for every backend: (x [R,C,h,w], timestep [R], condition [R,...]) -> network output [R,C,h,w]."""

from collections.abc import Callable

import torch

from discl.engine.compiled import arrange, prepared
from discl.engine.condition import Condition
from discl.engine.reproducible import attention_dtype, few_queries

Denoise = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]


def torch_denoiser(unet: torch.nn.Module, dtype: torch.dtype, compiled: bool) -> Denoise:
    """Wrap a diffusers UNet; x and timestep arrive in float32. `compiled`: one graph per static shape."""
    device = next(unet.parameters()).device
    levels = len(unet.config.block_out_channels)

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
        arrange(unet, device)
        return prepared(denoise, device, compiled=True)
    stable = prepared(denoise, device, compiled=False)

    def denoise_eagerly(x: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The stable form costs microseconds per operator: taken where torch's own attention is slow or uneven."""
        special = attention_dtype(dtype) != dtype or few_queries(x.shape[2], x.shape[3], levels)
        return (stable if special else denoise)(x, timestep, condition)

    return denoise_eagerly
