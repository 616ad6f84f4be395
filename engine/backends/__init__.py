"""What runs the models' parts: one contract, one file for each way to keep it.

torch      modules, eager or through torch.compile       onnx       ONNX Runtime
aoti       compiled ahead of time by torch               tensorrt   NVIDIA's engines
exported   what the last three share: files of parts, found by size and checked against the model
"""

from discl.engine.backends.backend import Backend, Function
from discl.engine.backends.choice import BACKENDS, EXPORTED, open_backend

__all__ = ["BACKENDS", "EXPORTED", "Backend", "Function", "open_backend"]
