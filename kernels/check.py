"""What a launcher checks at its door: a tensor and what its docstring promises in, a ValueError out."""

from collections.abc import Sequence

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check(
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int | str],
    dtypes: Sequence[torch.dtype],
    device: torch.device,
) -> None:
    """Raises ValueError unless `tensor` has this shape (a word stands for any size), dtype and device."""
    sizes = len(tensor.shape) == len(shape) and all(
        isinstance(want, str) or want == given for want, given in zip(shape, tensor.shape, strict=True)
    )
    if sizes and tensor.dtype in dtypes and tensor.device == device:
        return
    wanted = "/".join(_word(dtype) for dtype in dtypes)
    raise ValueError(
        f"{name}: expected {wanted} [{', '.join(map(str, shape))}] on {device}, "
        f"given {_word(tensor.dtype)} {list(tensor.shape)} on {tensor.device}"
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
