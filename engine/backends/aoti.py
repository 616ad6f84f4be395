"""Packages that torch compiled ahead of time, run by torch itself: no compiler, no first-call delay."""

from pathlib import Path

import torch
from torch._inductor import aoti_load_package

import discl.engine.reproducible  # noqa: F401  registers the operator that packages for CPUs call
from discl.engine.backends.backend import Function
from discl.engine.backends.exported import ExportedFolder
from discl.engine.compile_cache import device_name
from discl.engine.compiled import ByShape
from discl.engine.export.manifest import ExportedPart
from discl.engine.parts import Part
from discl.errors import ModelError


def machine(device: torch.device) -> dict[str, str]:
    """What compiled code is for."""
    return {"device": device_name(device), "torch": torch.__version__}


class AotiBackend:
    """Raises ModelError for a folder that is not whole or was compiled for another kind of device or torch."""

    name, slots = "aoti", None

    def __init__(self, folder: str | Path, device: torch.device):
        self.exported, self.device = ExportedFolder(self.name, folder), device
        here = machine(device)
        there = {name: self.exported.manifest.facts.get(name) for name in here}
        if here != there:
            raise ModelError(
                f"exported={str(folder)!r} was compiled for {there} and this is {here}: write it with `discl export "
                f"aoti MODEL {folder}` on such a machine"
            )

    def function(self, part: Part) -> Function:
        return self.exported.function(part, self._open)

    def _open(self, part: ExportedPart) -> Function:
        file = self.exported.folder / part.file
        try:
            package = aoti_load_package(str(file))
        except RuntimeError as error:
            raise ModelError(f"{file} cannot be loaded ({str(error).strip().splitlines()[0]}): export again") from error

        def run(*inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            given = (tensor.to(spec.torch_dtype).contiguous() for tensor, spec in zip(inputs, part.inputs, strict=True))
            return package(*given)

        return ByShape(lambda inputs: run, self.device)
