"""TensorRT: one engine for each part and size, one execution context and CUDA graph for each batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from discl.engine.backends.backend import Function
from discl.engine.backends.exported import ExportedFolder
from discl.engine.compiled import ByShape
from discl.engine.export.manifest import ExportedPart
from discl.engine.parts import Part
from discl.engine.tensorrt_plan import Log, load_tensorrt, plan_facts, read_plan
from discl.errors import ModelError, RunFailed


class TensorRTBackend:
    """Raises ModelError where TensorRT is missing, the folder is not whole or an engine is not for this machine."""

    name = "tensorrt"

    def __init__(self, folder: str | Path, device: torch.device):
        self.trt, self.device = load_tensorrt(), device
        self.exported = ExportedFolder(self.name, folder)
        self.slots: int = self.exported.manifest.facts.get("slots", 0)
        self._log = Log(self.trt)
        self._runtime = self.trt.Runtime(self._log.logger)

    def function(self, part: Part) -> Function:
        for exported in self.exported.manifest.of(part.name):
            self._read(exported)  # a foreign or damaged engine is refused before anything is made
        return self.exported.function(part, self._open)

    def _read(self, part: ExportedPart) -> bytes:
        return read_plan(self.exported.folder, part, plan_facts(self.trt, part, self.slots, self.device))

    def _open(self, part: ExportedPart) -> Function:
        engine = self._runtime.deserialize_cuda_engine(self._read(part))
        if engine is None:
            raise ModelError(
                f"TensorRT {self.trt.__version__} does not take the engine of {part.file} ({self._log.last}): export "
                f"again with `discl export tensorrt MODEL {self.exported.folder}`"
            )
        check_tensors(self.trt, engine, part)
        return ByShape(lambda inputs: Call(engine, part, len(inputs[0]), self.device, self._log), self.device)


class Call:
    """A part at one batch: a context of its own, its addresses set anew at every call, nothing waited for."""

    def __init__(self, engine: Any, part: ExportedPart, rows: int, device: torch.device, log: Log):
        self._part, self._rows, self._device, self._log = part, rows, device, log
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"out of memory for a TensorRT context of {part.file} ({log.last})")
        for spec in part.inputs:
            if not self._context.set_input_shape(spec.name, (rows, *spec.shape)):
                raise ModelError(
                    f"the engine of {part.file} does not take {rows} rows: export with --slots for the slots of this "
                    f"run ({log.last})"
                )

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        part = self._part
        given = [tensor.to(spec.torch_dtype).contiguous() for tensor, spec in zip(inputs, part.inputs, strict=True)]
        made = [
            torch.empty(self._rows, *spec.shape, dtype=spec.torch_dtype, device=self._device) for spec in part.outputs
        ]
        for tensor, spec in zip([*given, *made], [*part.inputs, *part.outputs], strict=True):
            if not self._context.set_tensor_address(spec.name, tensor.data_ptr()):
                raise RunFailed(f"TensorRT refuses the address of {spec.name} of {part.file} ({self._log.last})")
        if not self._context.execute_async_v3(current_stream(self._device)):
            failure = RuntimeError if "out of memory" in self._log.last.lower() else RunFailed
            raise failure(f"TensorRT could not run {part.file} ({self._log.last})")
        return tuple(made) if len(made) > 1 else made[0]


def current_stream(device: torch.device) -> int:
    """The handle of the stream that torch's own work goes to; graphs are captured on one that is not the default."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def check_tensors(trt: Any, engine: Any, part: ExportedPart) -> None:
    """Raises ModelError where the engine's tensors are not what the manifest says."""
    modes: dict[str, Callable] = {"inputs": trt.TensorIOMode.INPUT, "outputs": trt.TensorIOMode.OUTPUT}
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    for side, mode in modes.items():
        found = {name for name in names if engine.get_tensor_mode(name) == mode}
        wanted = {spec.name for spec in getattr(part, side)}
        if found != wanted:
            raise ModelError(
                f"the engine of {part.file} has the {side} {sorted(found)}, not {sorted(wanted)}: export again"
            )
    types = {
        "float32": trt.DataType.FLOAT,
        "float16": trt.DataType.HALF,
        "bfloat16": trt.DataType.BF16,
        "int64": trt.DataType.INT64,
    }
    for spec in (*part.inputs, *part.outputs):
        if engine.get_tensor_dtype(spec.name) != types[spec.dtype]:
            raise ModelError(f"the engine of {part.file} has {spec.name} not in {spec.dtype}: export again")
