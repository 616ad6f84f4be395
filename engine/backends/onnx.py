"""ONNX Runtime on a CPU or a CUDA device, bound to torch's memory: nothing is copied on the way in or out."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from discl.engine.backends.backend import Function
from discl.engine.backends.exported import ExportedFolder
from discl.engine.export.manifest import ExportedPart, Spec
from discl.engine.parts import Part
from discl.errors import ModelError

NUMPY = {"float32": np.float32, "float16": np.float16, "int64": np.int64}


class OnnxBackend:
    """Raises ModelError where ONNX Runtime is missing, cannot use the device, or the folder is not whole."""

    name, slots = "onnx", None

    def __init__(self, folder: str | Path, device: torch.device):
        self.runtime, self.device = load_runtime(device), device
        self.exported = ExportedFolder(self.name, folder)

    def function(self, part: Part) -> Function:
        return self.exported.function(part, self._open)

    def _open(self, part: ExportedPart) -> "OnnxFunction":
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        file = self.exported.folder / part.file
        try:
            session = self.runtime.InferenceSession(str(file), options, providers=providers(self.device))
        except Exception as error:  # the runtime has a class of its own for every status
            line = str(error).strip().splitlines()[0]
            raise ModelError(f"{file} cannot be opened by ONNX Runtime {self.runtime.__version__}: {line}") from error
        return OnnxFunction(session, part, self.device)


class OnnxFunction:
    """One session: tensors in and out by their addresses."""

    def __init__(self, session: Any, part: ExportedPart, device: torch.device):
        self._session, self._part, self._device = session, part, device

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        part, binding = self._part, self._session.io_binding()
        given = [tensor.to(spec.torch_dtype).contiguous() for tensor, spec in zip(inputs, part.inputs, strict=True)]
        rows = len(inputs[0])
        made = [torch.empty(rows, *spec.shape, dtype=spec.torch_dtype, device=self._device) for spec in part.outputs]
        for tensor, spec in zip(given, part.inputs, strict=True):
            binding.bind_input(*self._place(tensor, spec))
        for tensor, spec in zip(made, part.outputs, strict=True):
            binding.bind_output(*self._place(tensor, spec))
        if self._device.type == "cuda":  # the runtime works on a stream of its own
            torch.cuda.current_stream(self._device).synchronize()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime, {part.file}: {error}") from error
        binding.synchronize_outputs()
        return tuple(made) if len(made) > 1 else made[0]

    def _place(self, tensor: torch.Tensor, spec: Spec) -> tuple:
        index = self._device.index or 0
        return spec.name, self._device.type, index, NUMPY[spec.dtype], tuple(tensor.shape), tensor.data_ptr()


def load_runtime(device: torch.device) -> ModuleType:
    """The package onnxruntime. Raises ModelError where it is missing or was built without CUDA."""
    try:
        import onnxruntime
    except ImportError as error:
        package = "onnxruntime-gpu" if device.type == "cuda" else "onnxruntime"
        raise ModelError(
            f"backend='onnx' needs the package {package}, which is not installed: pip install {package}"
        ) from error
    if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ModelError(
            f"onnxruntime {onnxruntime.__version__} here was built without CUDA: install onnxruntime-gpu in its "
            "place, or use device='cpu'"
        )
    return onnxruntime


def providers(device: torch.device) -> list:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
