"""A model's name -> a folder with every part at every size, complete or not there at all."""

import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from discl.engine.backends.aoti import machine
from discl.engine.export.aoti import write_aoti
from discl.engine.export.manifest import NAME, ExportedPart, Manifest, exported_part, read_manifest
from discl.engine.export.onnx import OPSET, check_exporter, write_onnx
from discl.engine.export.tensorrt import build_engines
from discl.engine.options import check_whole, find_device, refuse_unknown
from discl.engine.parts import Part, Row, clip_parts, make_traceable, model_parts
from discl.engine.pretrained import DiffusionModel, load_model
from discl.engine.pretrained.digest import file_digest
from discl.engine.reproducible import make_plain, make_rowwise
from discl.engine.request import whole_pixels
from discl.engine.tensorrt_plan import load_tensorrt, require_gpu
from discl.errors import DisclError, ModelError

log = logging.getLogger(__name__)

DTYPES = {
    "onnx": {"float32": torch.float32, "float16": torch.float16},
    "tensorrt": {"float32": torch.float32, "float16": torch.float16},
    "aoti": {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16},
}
HOW: dict[str, dict[str, Any]] = {
    "onnx": {"exporter": "torch.onnx.export(dynamo=True)", "opset": OPSET},
    "aoti": {"exporter": "torch.export and AOTInductor"},
}
PACKAGES = ("discl", "torch", "diffusers", "open_clip_torch", "onnx", "onnxscript")
Write = Callable[[Part, Row, Path], list[Path]]  # a part and an example batch, to files that begin with a stem
OnEvent = Callable[[dict], None]


def export_model(
    kind: str,
    model: str,
    out: str | Path,
    clip: str | None = None,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    dtype: str = "float32",
    loras: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    slots: int = 16,
    device: str = "auto",
    onnx: str | None = None,
    on_event: OnEvent = lambda event: None,
) -> Manifest:
    """Write the folder `out` for the backend `kind`: the model's parts and, with `clip`, the scorer's towers.

    sizes: (width, height) of the images to be made, the model's own by default; a part that depends on it is written
    once per size. dtype: of UNet and VAE (where the VAE can take it); the towers stay in float32, as scoring does.
    slots: of the engines that will run it (TensorRT). device: what the files are for ("aoti", "tensorrt"). onnx: an
    export for "onnx" whose graphs TensorRT takes instead of new ones, for instance after ModelOpt has put Q/DQ pairs
    into them. An earlier export in `out` is replaced, but for TensorRT engines that fit.
    Raises ModelError for a model that cannot be loaded, for packages or a device that are missing; DisclError for other
    options; RunFailed where TensorRT cannot build.
    """
    refuse_unknown(dtype=(dtype, DTYPES[kind]))
    if kind == "tensorrt":
        check_whole(slots=(slots, 1, None))
        trt, gpu = load_tensorrt(), require_gpu(find_device(device))
        graphs = _copy_graphs if onnx else _trace_graphs
        manifest = graphs(Path(out), onnx or (model, clip, sizes, dtype, loras, embeddings), slots, on_event)
        build_engines(trt, Path(out), manifest, slots, gpu, on_event)
        return manifest
    place = find_device(device if kind == "aoti" else "cpu")
    source = _Source.load(model, clip, sizes, dtype, loras, embeddings, place)
    facts = source.facts | HOW[kind] | (machine(place) if kind == "aoti" else {})
    if kind == "onnx":
        check_exporter()
    with staged(Path(out)) as folder:
        return source.write(kind, folder, facts, write_onnx if kind == "onnx" else write_aoti, on_event)


def _trace_graphs(out: Path, asked: tuple, slots: int, on_event: OnEvent) -> Manifest:
    """The ONNX files of what is asked, kept where they are there already."""
    check_exporter()
    source = _Source.load(*asked, torch.device("cpu"))
    facts = source.facts | HOW["onnx"] | {"slots": slots}
    manifest = _unchanged(out, facts)
    if manifest is None:
        with staged(out) as folder:
            return source.write("tensorrt", folder, facts, write_onnx, on_event)
    manifest = replace(manifest, facts=facts)
    manifest.write(out)
    return manifest


def _copy_graphs(out: Path, onnx: str, slots: int, on_event: OnEvent) -> Manifest:
    """The files of an ONNX export as they are now, whatever has changed them: their tensors must be the same."""
    given = read_manifest(onnx, "onnx", unchanged=False)
    with staged(out) as folder:
        parts = []
        for part in given.parts:
            names = [
                part.file,
                *(name for name in (f"{part.file}.data", f"{part.file}_data") if Path(onnx, name).is_file()),
            ]
            files = [Path(shutil.copy(Path(onnx, name), folder / name)) for name in names]
            parts.append(replace(part, digests={file.name: file_digest(file) for file in files}))
        manifest = Manifest("tensorrt", {**given.facts, "slots": slots}, tuple(parts))
        manifest.write(folder)
    return manifest


def _unchanged(out: Path, facts: dict[str, Any]) -> Manifest | None:
    """What is in `out`, if it is of the same model, sizes and dtype."""
    try:
        found = read_manifest(out, "tensorrt")
    except ModelError:
        return None
    same = ("model", "clip", "dtype", "sizes", "opset", "versions")
    given = json.loads(json.dumps(facts))
    return found if all(found.facts.get(name) == given[name] for name in same) else None


@dataclass(frozen=True)
class _Source:
    """A loaded model, ready to be traced. parts: of the model, then of the scorer."""

    parts: list[Part]
    sizes: list[tuple[int, int]]
    facts: dict[str, Any]
    device: torch.device

    @classmethod
    def load(cls, model, clip, sizes, dtype, loras, embeddings, device: torch.device) -> "_Source":
        loaded = load_model(model, device, DTYPES["aoti"][dtype], loras, embeddings)
        sizes, parts = checked_sizes(loaded, sizes), model_parts(loaded)
        facts = {
            "model": {"name": str(model), "digest": loaded.digest},
            "clip": None,
            "dtype": dtype,
            "sizes": sizes,
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        }
        if clip:
            from discl.engine.clip_checkpoint import load_clip  # open_clip takes seconds to import

            checkpoint = load_clip(clip)
            checkpoint.model.to(device)
            parts += clip_parts(checkpoint)
            facts["clip"] = {"name": clip, "digest": checkpoint.digest}
        return cls(parts, sizes, facts, device)

    def write(self, kind: str, folder: Path, facts: dict[str, Any], write: Write, on_event: OnEvent) -> Manifest:
        for part in self.parts:
            if write is write_onnx or self.device.type != "cpu":
                make_plain(part.module)
            else:
                make_rowwise(part.module)
            make_traceable(part.module)
        exported = tuple(write_parts(self.parts, self.sizes, folder, write, self.device, on_event))
        manifest = Manifest(kind, facts, exported)
        manifest.write(folder)
        return manifest


def write_parts(
    parts: list[Part],
    sizes: list[tuple[int, int]],
    folder: Path,
    write: Write,
    device: torch.device,
    on_event: OnEvent,
) -> Iterator[ExportedPart]:
    """The first size's files are called as the part is; further sizes stand in the name."""
    jobs = [(part, size) for part in parts for size in (sizes if part.sized else sizes[:1])]
    for number, (part, size) in enumerate(jobs):
        stem = part.name if size == sizes[0] else f"{part.name}-{size[0]}x{size[1]}"
        inputs = tuple(torch.stack([tensor, tensor]).to(device) for tensor in part.row(*size))
        files = write(part, inputs, folder / stem)
        log.info("%s: %.1f MB", files[0].name, sum(file.stat().st_size for file in files) / 1e6)
        on_event({"event": "export", "part": stem, "done": number + 1, "of": len(jobs)})
        yield exported_part(part, size, inputs, files)


def checked_sizes(model: DiffusionModel, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes that were asked for, or the one that the model was trained at."""
    if not sizes:
        side = model.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return [(width * model.multiple, height * model.multiple)]
    for width, height in sizes:
        whole_pixels((width, height))
        if width % model.multiple or height % model.multiple:
            raise DisclError(f"size {width}x{height}: this model makes sizes that are multiples of {model.multiple}")
    return list(dict.fromkeys(sizes))


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end; an earlier export in `out` is replaced whole.

    Raises DisclError where `out` is something else.
    """
    if out.exists() and not (out / NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DisclError(f"{out} is there and holds no export: name a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
