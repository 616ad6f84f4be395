"""Which backends work on this machine, with versions; why one does not, and what to install."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import NamedTuple

import torch

from discl.engine.tensorrt_plan import load_tensorrt, require_gpu
from discl.errors import DisclError


class Finding(NamedTuple):
    """name: of a backend, or of an export. works: here. text: versions, or what is missing and what to do."""

    name: str
    works: bool
    text: str


def findings(device: torch.device) -> Iterator[Finding]:
    """Every backend and every export, on this device."""
    for name, find in FINDERS.items():
        try:
            yield Finding(name, True, find(device))
        except DisclError as error:
            yield Finding(name, False, str(error))


def _torch(device: torch.device) -> str:
    return f"torch {torch.__version__}, {device.type}"


def _compiler(device: torch.device) -> str:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        compiler = get_cpp_compiler()
    except Exception as error:  # torch has a class of its own for this, in a private module
        raise DisclError("needs a C++ compiler: install g++ (apt-get install g++)") from error
    if device.type == "cuda" and find_spec("triton") is None:
        raise DisclError("needs triton on a GPU: pip install triton")
    return f"torch {torch.__version__}, {compiler}"


def _onnx(device: torch.device) -> str:
    from discl.engine.backends.onnx import load_runtime, providers

    runtime = load_runtime(device)
    provider = providers(device)[0]
    return f"onnxruntime {runtime.__version__}, {provider if isinstance(provider, str) else provider[0]}"


def _tensorrt(device: torch.device) -> str:
    version = load_tensorrt().__version__
    require_gpu(device)
    return f"TensorRT {version}, {torch.cuda.get_device_name(device)}"


def _export_onnx(device: torch.device) -> str:
    import onnx

    from discl.engine.export.onnx import OPSET, check_exporter

    check_exporter()
    return f"onnx {onnx.__version__}, opset {OPSET}"


FINDERS: dict[str, Callable[[torch.device], str]] = {
    "torch": _torch,
    "torch-compile": _compiler,
    "onnx": _onnx,
    "aoti": _torch,
    "tensorrt": _tensorrt,
    "export onnx": _export_onnx,
    "export aoti": _compiler,
    "export tensorrt": _tensorrt,
}
