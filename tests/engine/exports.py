"""Exports of tiny models, made once in a test run, and ways to look at them."""

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from discl.engine.clip_checkpoint import load_clip
from discl.engine.export.write import export_model
from discl.engine.parts import Part, clip_parts, model_parts
from discl.engine.pretrained import load_model
from tests.tiny import tiny_clip, tiny_sdxl

CPU = torch.device("cpu")
FOLDER = TemporaryDirectory(prefix="discl-exports-")  # for the life of the process


class Tiny(NamedTuple):
    """An SDXL, which has every input that a UNet may have but LCM's, and a CLIP."""

    model: str
    clip: str
    onnx: Path

    def parts(self) -> dict[str, Part]:
        model, clip = load_model(self.model, CPU, torch.float32), load_clip(self.clip)
        return {part.name: part for part in [*model_parts(model), *clip_parts(clip)]}


@lru_cache(maxsize=1)
def tiny_export() -> Tiny:
    folder = Path(FOLDER.name)
    model, clip = str(tiny_sdxl(folder / "model")), str(tiny_clip(folder / "clip"))
    export_model("onnx", model, folder / "onnx", clip)
    return Tiny(model, clip, folder / "onnx")


def random_inputs(part: Part, rows: int, seed: int, size: tuple[int, int] = (64, 64)) -> tuple[torch.Tensor, ...]:
    """Of a part's shapes and dtypes: timesteps within 0..999, words among the letters."""
    rng = torch.Generator().manual_seed(seed)
    inputs = []
    for name, row in zip(part.inputs, part.row(*size), strict=True):
        if name == "tokens":
            words = torch.randint(1, 400, (rows, *row.shape), generator=rng)
            words[:, -1] = 49407  # the end, which the tower looks at
            inputs.append(words)
        elif name == "timestep":
            inputs.append(torch.rand(rows, generator=rng) * 999)
        else:
            inputs.append(torch.randn(rows, *row.shape, generator=rng).to(row.dtype))
    return tuple(inputs)
