"""One contract for every backend: (x [R,C,h,w], timestep [R], condition [R,...]) -> network output [R,C,h,w]."""

from collections.abc import Callable

import torch

from discl.engine.backends.backend import Function
from discl.engine.backends.torch import TorchBackend
from discl.engine.condition import Condition
from discl.engine.parts import unet_part
from discl.engine.pretrained import DiffusionModel

Denoise = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]


def denoiser(run: Function) -> Denoise:
    """The UNet's function as the slots call it; x and timestep arrive in float32."""

    def denoise(x: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        return run(x, timestep, *(part for part in condition if part is not None))

    return denoise


def torch_denoiser(model: DiffusionModel, compiled: bool = False) -> Denoise:
    """The UNet in torch."""
    return denoiser(TorchBackend(model.device, compiled).function(unet_part(model)))
