"""Host <-> device copies that let the host go on, through pinned memory; and work on a stream beside the denoiser's."""

from contextlib import AbstractContextManager, nullcontext

import torch


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on the device, without waiting for what the device is doing."""
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: torch.Tensor) -> torch.Tensor:
    """A device tensor on the host, through pinned memory: it is there once the current stream has come this far."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def beside(stream: torch.cuda.Stream | None) -> AbstractContextManager:
    """Inside, CUDA work goes to `stream`; without one (on a CPU) nothing changes.

    The image tower and the VAE's decoder always run here: their graphs must not be replayed from two streams.
    """
    return torch.cuda.stream(stream) if stream else nullcontext()
