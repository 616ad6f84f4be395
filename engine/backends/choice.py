"""The name of a backend -> the backend, opened on a device."""

import torch

from discl.engine.backends.backend import Backend
from discl.engine.backends.torch import TorchBackend
from discl.errors import DisclError

EXPORTED = ("onnx", "aoti", "tensorrt")  # these run the files of an export
BACKENDS = ("torch", "torch-compile", *EXPORTED)


def open_backend(name: str, device: torch.device, exported: str | None = None) -> Backend:
    """exported: the folder that `discl export` wrote, for the backends that run one.

    Raises DisclError for a folder that the backend does not take or that is missing, ModelError for one that is damaged
    and where the backend's library is not installed.
    """
    if name not in EXPORTED:
        if exported:
            raise DisclError(f"exported={exported!r} goes with the backends {', '.join(EXPORTED)}, not with {name}")
        return TorchBackend(device, compiled=name == "torch-compile")
    if not exported:
        raise DisclError(
            f"backend={name!r} runs exported files: write them with `discl export {name} MODEL OUT`, give exported=OUT"
        )
    if name == "onnx":
        from discl.engine.backends.onnx import OnnxBackend

        return OnnxBackend(exported, device)
    if name == "aoti":
        from discl.engine.backends.aoti import AotiBackend

        return AotiBackend(exported, device)
    from discl.engine.backends.tensorrt import TensorRTBackend
    from discl.engine.tensorrt_plan import require_gpu

    return TensorRTBackend(exported, require_gpu(device))
