"""A part -> a package that torch compiled ahead of time: it loads in milliseconds and runs without a compiler."""

import warnings
from pathlib import Path

import torch
from torch._inductor import aoti_compile_and_package

from discl.engine.compiled import OPTIONS
from discl.engine.parts import Part, Row, any_batch
from discl.engine.reproducible import StableAttention


class Stable(torch.nn.Module):
    """A part as a CPU's compiled code runs it: the same bits in every row."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        with StableAttention():
            return self.module(*inputs)


def write_aoti(part: Part, inputs: Row, stem: Path) -> list[Path]:
    """inputs: an example batch of two rows, on the device that the package is for."""
    file, device = stem.with_suffix(".pt2"), inputs[0].device.type
    module, shapes = part.module, any_batch(part)
    if device == "cpu":
        module, shapes = Stable(module), (shapes_of(inputs),)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about its own ways
        program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
        aoti_compile_and_package(program, package_path=str(file), inductor_configs=OPTIONS[device])
    return [file]


def shapes_of(inputs: Row) -> tuple:
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    return (batch,) * len(inputs)
