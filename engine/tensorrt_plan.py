"""What a TensorRT engine is for, and its file: a line of JSON that says so, then the plan.

An engine holds for one model, dtype, size, batch profile, TensorRT version and GPU. All of that is its key, so engines
for several machines lie side by side, and a foreign or damaged one is refused with the reason.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from discl.engine.compile_cache import device_name
from discl.engine.export.manifest import ExportedPart
from discl.engine.networks import SCORE_BATCH, micro_batch, preview_batch
from discl.engine.reproducible import stable_rows
from discl.errors import ModelError

log = logging.getLogger(__name__)


def load_tensorrt() -> ModuleType:
    """The package tensorrt. Raises ModelError where it is missing or older than 10."""
    try:
        import tensorrt
    except ImportError as error:
        raise ModelError("backend='tensorrt' needs TensorRT: pip install 'discl[tensorrt]'") from error
    if int(tensorrt.__version__.split(".")[0]) < 10:
        raise ModelError(f"TensorRT {tensorrt.__version__} is too old: 10.12 or later is needed")
    return tensorrt


def require_gpu(device: torch.device) -> torch.device:
    """The device, if TensorRT can run on it; ModelError else."""
    if device.type != "cuda":
        raise ModelError(
            "TensorRT runs on NVIDIA GPUs, and this is a CPU: use backend 'onnx', 'aoti' or 'torch-compile'"
        )
    return device


class Log:
    """TensorRT's messages go to `logging`; the last complaint is kept for ours. logger: what TensorRT wants."""

    def __init__(self, trt: ModuleType):
        self.last = "TensorRT gave no reason"
        base = trt.ILogger
        errors = (base.INTERNAL_ERROR, base.ERROR)

        class Logger(base):
            def __init__(self, outer: "Log"):
                base.__init__(self)
                self._outer = outer

            def log(self, severity: Any, msg: str) -> None:
                known = severity in (*errors, base.WARNING)
                log.log(logging.INFO if known else logging.DEBUG, "tensorrt: %s", msg)
                if severity in errors and msg.strip():
                    self._outer.last = msg.strip().splitlines()[0]

        self.logger = Logger(self)


def batch_profile(part: str, slots: int) -> tuple[int, int, int]:
    """(least, usual, most) rows of a part that an engine of this many slots asks for."""
    usual = {
        "unet": 2 * stable_rows(slots, 2),
        "vae_encoder": 1,
        "vae_decoder": micro_batch(slots),
        "clip_image": SCORE_BATCH,
        "clip_text": SCORE_BATCH,
    }[part]
    most = max(usual, preview_batch(slots)) if part == "clip_image" else usual
    return 1, usual, most


def plan_facts(trt: ModuleType, part: ExportedPart, slots: int, device: torch.device) -> dict[str, Any]:
    """Everything that an engine must agree with, as JSON."""
    return {
        "model": part.model,
        "graph": part.digests[part.file],
        "shapes": {spec.name: [spec.dtype, *spec.shape] for spec in (*part.inputs, *part.outputs)},
        "batch": list(batch_profile(part.part, slots)),
        "dtype": part.dtype,
        "tensorrt": trt.__version__,
        "gpu": device_name(device),
    }


def plan_file(folder: Path, part: ExportedPart, facts: dict[str, Any]) -> Path:
    key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    return folder / f"{Path(part.file).stem}-{key}.engine"


def write_plan(folder: Path, part: ExportedPart, facts: dict[str, Any], plan: Any) -> None:
    """plan: a buffer. Written whole or not at all."""
    file = plan_file(folder, part, facts)
    header = {"facts": facts, "blake2b": hashlib.blake2b(plan, digest_size=16).hexdigest()}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with open(temporary, "wb") as stream:
        stream.write(json.dumps(header, sort_keys=True).encode() + b"\n")
        stream.write(plan)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def read_plan(folder: Path, part: ExportedPart, facts: dict[str, Any]) -> bytes:
    """The plan of a part for this machine. Raises ModelError that says why there is none, or what is wrong with it."""
    file, again = plan_file(folder, part, facts), f"build it with `discl export tensorrt MODEL {folder}`"
    if not file.is_file():
        stem = Path(part.file).stem
        others = [_header(other) for other in sorted(folder.glob(f"{stem}-{'?' * 16}.engine"))]
        reasons = [_differences(header["facts"], facts) for header in others if header]
        held = f"; it holds engines for {' and for '.join(reasons)}" if reasons else ""
        raise ModelError(f"{folder} holds no engine of {part.file} for this machine{held}: {again}")
    header = _header(file)
    with open(file, "rb") as stream:
        stream.readline()
        plan = stream.read()
    if header is None or header["facts"] != facts:
        raise ModelError(f"{file} is damaged (its first line is not what was written): {again}")
    if hashlib.blake2b(plan, digest_size=16).hexdigest() != header["blake2b"]:
        raise ModelError(f"{file} is damaged (its bytes are not what was written): {again}")
    return plan


def _header(file: Path) -> dict[str, Any] | None:
    try:
        with open(file, "rb") as stream:
            header = json.loads(stream.readline())
        return header if isinstance(header["facts"], dict) and header["blake2b"] else None
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    names = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    return ", ".join(f"{name} {theirs.get(name)} (here {ours.get(name)})" for name in names)
