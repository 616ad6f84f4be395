"""A pickle of plain data in, the data out; whatever would run code is refused.

CIFAR's python batches are pickles of dict, list, bytes, str, int and numpy arrays (Python 2, numpy 1). Nothing else in
this package reads a pickle.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from discl.errors import DataError


def _encoded(text: str = "", encoding: str = "latin1") -> bytes:
    """What Python 3 writes for bytes in the older protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


def _array(cls: type, shape: tuple, kind: bytes) -> np.ndarray:
    """An empty array, whose state follows."""
    return np.empty(0, np.uint8)


def _from_buffer(data: bytes, dtype: np.dtype, shape: tuple, order: Any) -> np.ndarray:
    if dtype.hasobject:
        raise pickle.UnpicklingError("it holds an array of objects")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _encoded,
}
PLAIN = (dict, list, bytes, str, int, np.ndarray)


class PlainUnpickler(pickle.Unpickler):
    """Knows what numpy's arrays and bytes are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return ALLOWED[module, name]


def read_plain(file: Path) -> dict[Any, Any]:
    """The dict of a batch; text of Python 2 is bytes. Raises DataError, also for arrays of objects."""
    try:
        data = PlainUnpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        _check(data)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}; restore it") from error
    except Exception as error:  # a damaged pickle raises what it likes
        raise DataError(f"{file}: no batch of plain data ({error}); download CIFAR-100 again") from error
    if not isinstance(data, dict):
        raise DataError(f"{file}: holds a {type(data).__name__}, not the dict of a CIFAR batch; download it again")
    return {key.encode() if isinstance(key, str) else key: value for key, value in data.items()}


def _check(value: Any) -> None:
    if not isinstance(value, PLAIN) or (isinstance(value, np.ndarray) and value.dtype.hasobject):
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for part in value if isinstance(value, list) else ():
        _check(part)
