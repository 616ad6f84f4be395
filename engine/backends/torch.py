"""torch itself: a part's module called as it is, or through torch.compile."""

from collections.abc import Callable

import torch

from discl.engine.backends.backend import Function
from discl.engine.compiled import arrange, prepared
from discl.engine.parts import Part, Unet
from discl.engine.reproducible import attention_dtype, few_queries

ONCE = ("clip_text",)  # parts that run too rarely to be worth compiling


class TorchBackend:
    """compiled: one graph for each static shape, see `discl.engine.compiled`."""

    slots = None

    def __init__(self, device: torch.device, compiled: bool = False):
        self.name = "torch-compile" if compiled else "torch"
        self.device, self.compiled = device, compiled

    def function(self, part: Part) -> Function:
        module = part.module
        if self.compiled and part.name not in ONCE:
            for child in module.children():
                arrange(child, self.device)
            return prepared(module, self.device, compiled=True)
        stable = prepared(module, self.device, compiled=False)
        return _sometimes_stable(module, stable) if isinstance(module, Unet) else stable


def _sometimes_stable(module: Unet, stable: Callable) -> Function:
    """The stable form costs microseconds per operator: taken where torch's own attention is slow or uneven."""
    dtype, levels = module.unet.dtype, len(module.unet.config.block_out_channels)

    def run(sample: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        special = attention_dtype(dtype) != dtype or few_queries(sample.shape[2], sample.shape[3], levels)
        return (stable if special else module)(sample, *others)

    return run
