"""Files of parts, opened when their size is first asked for, and checked against the model that the engine has."""

from collections.abc import Callable
from pathlib import Path

import torch

from discl.engine.backends.backend import Function
from discl.engine.export.manifest import ExportedPart, Manifest, read_manifest
from discl.engine.parts import Part
from discl.errors import ModelError

Open = Callable[[ExportedPart], Function]


class ExportedFolder:
    """A folder that `discl export KIND` wrote. Raises ModelError for one that is not whole."""

    def __init__(self, kind: str, folder: str | Path):
        self.kind, self.folder = kind, Path(folder)
        self.manifest: Manifest = read_manifest(folder, kind)

    def function(self, part: Part, open_part: Open) -> "BySize":
        """A part's function over its files; the weights of its module are dropped, they stand in the files.

        Raises ModelError where the folder lacks the part, or has it of another model or in another dtype.
        """
        found = list(self.manifest.of(part.name))
        again = f"export again with `discl export {self.kind} MODEL {self.folder}`"
        if not found:
            hint = " --clip NAME" if part.name.startswith("clip") else ""
            raise ModelError(f"exported={str(self.folder)!r} holds no {part.name}: {again.rstrip('`')}{hint}`")
        for exported in found:
            if exported.model != part.digest:
                raise ModelError(
                    f"{self.folder / exported.file} is of another model (digest {exported.model}) than the one that "
                    f"was loaded ({part.digest}): {again}"
                )
            if exported.dtype != str(part.dtype).removeprefix("torch."):
                raise ModelError(
                    f"{self.folder / exported.file} is in {exported.dtype} and the model in "
                    f"{str(part.dtype).removeprefix('torch.')}: {again} --dtype, or ask for the exported dtype"
                )
        if part.sized:
            part.module.to("meta")
        return BySize(self, found, open_part)


class BySize:
    """Calls the file whose inputs have the shapes that are given."""

    def __init__(self, exported: ExportedFolder, found: list[ExportedPart], open_part: Open):
        self._exported, self._open = exported, open_part
        self._found = {part.inputs[0].shape: part for part in found}
        self._opened: dict[tuple[int, ...], Function] = {}

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        shape = tuple(inputs[0].shape[1:])
        if shape not in self._opened:
            self._opened[shape] = self._open(self._fitting(shape))
        return self._opened[shape](*inputs)

    def clear(self) -> None:
        """Close the files; they are opened again when they are needed."""
        self._opened.clear()

    def _fitting(self, shape: tuple[int, ...]) -> ExportedPart:
        if shape not in self._found:
            known = ", ".join(f"{part.size[0]}x{part.size[1]}" for part in self._found.values() if part.size)
            name = next(iter(self._found.values())).part
            raise ModelError(
                f"exported={str(self._exported.folder)!r} holds {name} for images of {known} pixels, not for an input "
                f"of {list(shape)}: set spectrum.size with size_policy crop or stretch, or export with --size "
                "WIDTHxHEIGHT, once for every size"
            )
        return self._found[shape]
