"""manifest.json of an exported folder: of which model, by what, and each part's file with its tensors."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from discl.engine.parts import Part, Row
from discl.engine.pretrained.digest import file_digest
from discl.errors import ModelError

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Spec:
    """One tensor of a part: dtype as torch names it, shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class ExportedPart:
    """A part at one size of image (None: for all).

    model: digest of the model that it is of. dtype: of its weights. file: what its backend opens. digests: of that file
    and of those beside it that belong to it.
    """

    part: str
    size: tuple[int, int] | None
    model: str
    dtype: str
    file: str
    digests: dict[str, str]
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]


@dataclass(frozen=True)
class Manifest:
    """kind: the backend that runs it. facts: names, versions and settings, for people and for the backend."""

    kind: str
    facts: dict[str, Any]
    parts: tuple[ExportedPart, ...]

    def of(self, name: str) -> Iterator[ExportedPart]:
        return (part for part in self.parts if part.part == name)

    def write(self, folder: Path) -> None:
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, default=str)
        (folder / NAME).write_text(text, encoding="utf-8")


def read_manifest(folder: str | Path, kind: str, unchanged: bool = True) -> Manifest:
    """Raises ModelError for a folder that is no export, another backend's, another version's, or damaged.

    unchanged: whether the files must be as they were written.
    """
    folder, again = Path(folder), f"write it with `discl export {kind} MODEL {folder}`"
    if not (folder / NAME).is_file():
        raise ModelError(f"exported={str(folder)!r} holds no {NAME}: {again}")
    try:
        given = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if given["format"] != FORMAT or given["kind"] != kind:
            held = f"an export of format {given['format']} for the backend {given['kind']}"
            raise ModelError(f"exported={str(folder)!r} holds {held}; {kind} needs format {FORMAT} of its own: {again}")
        manifest = Manifest(kind, dict(given["facts"]), tuple(map(_part, given["parts"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / NAME} cannot be read ({error!r}): {again}") from error
    for file, digest in (item for part in manifest.parts for item in part.digests.items() if unchanged):
        if not (folder / file).is_file() or file_digest(folder / file) != digest:
            state = "is not what was exported" if (folder / file).is_file() else "is missing"
            raise ModelError(f"{folder / file} {state}: {again}")
    return manifest


def specs(names: tuple[str, ...], tensors: Row) -> tuple[Spec, ...]:
    """Of tensors with a batch in front."""
    kinds = (str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    shapes = (tuple(tensor.shape[1:]) for tensor in tensors)
    return tuple(map(Spec, names, kinds, shapes))


def exported_part(part: Part, size: tuple[int, int], inputs: Row, files: list[Path]) -> ExportedPart:
    """inputs: an example batch. files: the one to be opened first."""
    outputs = _shapes(part, inputs)
    return ExportedPart(
        part.name,
        size if part.sized else None,
        part.digest,
        str(part.dtype).removeprefix("torch."),
        files[0].name,
        {file.name: file_digest(file) for file in files},
        specs(part.inputs, inputs),
        specs(part.outputs, outputs),
    )


def _shapes(part: Part, inputs: Row) -> Row:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        outputs = part.module(*(mode.from_tensor(tensor) for tensor in inputs))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _part(given: dict) -> ExportedPart:
    tensors = {key: tuple(map(_spec, given[key])) for key in ("inputs", "outputs")}
    size = None if given["size"] is None else tuple(map(int, given["size"]))
    for file in dict(given["digests"]):
        if Path(file).name != file:
            raise ValueError(f"it names a file outside of its folder: {file!r}")
    if given["file"] not in given["digests"]:
        raise ValueError(f"it has no digest of {given['file']!r}")
    return ExportedPart(**{**given, **tensors, "size": size})


def _spec(given: dict) -> Spec:
    if not isinstance(getattr(torch, given["dtype"], None), torch.dtype):
        raise ValueError(f"torch has no dtype {given['dtype']!r}")
    return Spec(str(given["name"]), given["dtype"], tuple(map(int, given["shape"])))
