"""Option names -> torch's objects, and one-line refusals that name what is known."""

import logging
from os import PathLike

import torch

from discl.errors import DisclError, ModelError

log = logging.getLogger(__name__)

# Of the network outside its float8 layers, which are exchanged after loading.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.bfloat16,
}


def find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"device={name!r} is not a device: give auto, cpu or cuda[:n]") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device={name!r} is of a kind that the engine does not run on: give auto, cpu or cuda[:n]")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device={name!r} asks for a CUDA device and this machine has none: use device='auto' or 'cpu'"
        )
    if device.type == "cuda" and device.index and device.index >= torch.cuda.device_count():
        raise ModelError(f"device={name!r}: this machine's CUDA devices are 0 to {torch.cuda.device_count() - 1}")
    return device


def warn_if_slow(device: torch.device, dtype: torch.dtype) -> None:
    """Half precision that a CPU has no instructions for is emulated: it works, slower than float32."""
    if device.type != "cpu" or dtype == torch.float32:
        return
    missing = {
        torch.bfloat16: not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        and "AVX512-BF16 or AMX",
        torch.float16: not torch.cpu._is_amx_fp16_supported() and "AMX-FP16",
    }[dtype]
    if missing:
        name = str(dtype).removeprefix("torch.")
        log.warning("%s needs %s to be fast, which this CPU lacks: expect less speed than float32", name, missing)


def refuse_unknown(**options) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise DisclError(f"{name}={value!r} is not available in this version: choose one of {', '.join(known)}")


def check_whole(**options) -> None:
    """Each option: (value, smallest, largest or None)."""
    for name, (value, low, high) in options.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < low or (high is not None and value > high):
            span = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise DisclError(f"{name}={value!r}: give a whole number {span}")


def check_slots(slots: int | str) -> None:
    if isinstance(slots, str) and slots != "auto":
        raise DisclError(f"slots={slots!r}: give a whole number of at least 1, or 'auto'")
    check_whole(slots=(1 if slots == "auto" else slots, 1, None))


def check_text(**options) -> None:
    """Each option: a str, or None for not given."""
    for name, value in options.items():
        if value is not None and not isinstance(value, str):
            raise DisclError(f"{name}={value!r} is not text: give a str, or None")


def check_names(path, **optional) -> None:
    """The model's path or name, and each option's, which may be None for not given."""
    given = {name: value for name, value in optional.items() if value is not None}
    for name, value in {"path": path, **given}.items():
        if not isinstance(value, str | PathLike):
            raise DisclError(f"{name}={value!r} is neither a path nor a name: give a str")


def check_interval(interval) -> None:
    """A guidance interval: None or (low, high) with 0 <= low < high <= 1."""
    if interval is None:
        return
    try:
        low, high = map(float, interval)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise DisclError(
            f"guidance_interval={interval!r}: give (low, high) with 0 <= low < high <= 1, "
            "shares of the training timesteps"
        )
