"""Option names -> torch's objects, and one-line refusals that name what is known."""

import torch

from discl.errors import DisclError, ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BACKENDS = ("torch", "torch-compile")


def find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device={name!r} is not a device: give auto, cpu or cuda[:n]") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device={name!r} asks for a CUDA device and this machine has none: use device='auto' or 'cpu'"
        )
    return device


def refuse_unknown(**options) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise DisclError(f"{name}={value!r} is not available in this version: choose one of {', '.join(known)}")
