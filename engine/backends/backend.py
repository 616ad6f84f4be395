"""The contract of every backend: a part of a model in, a function of tensors out."""

from collections.abc import Callable
from typing import Any, Protocol

from discl.engine.parts import Part

Function = Callable[..., Any]  # the part's input tensors, on the engine's device -> its output or a tuple of outputs


class Backend(Protocol):
    """name: as in a config. slots: the most that its functions are made for, None for any."""

    name: str
    slots: int | None

    def function(self, part: Part) -> Function:
        """How this backend runs a part; what it does not need of the part's module it may drop.

        A function may have `clear()`, which gives memory back that it takes again when it is next called.
        Raises ModelError where the backend does not have the part, or has that of another model.
        """
        ...


def clear(*functions: Function) -> None:
    """Give back the memory of those among `functions` that hold any."""
    for function in functions:
        release = getattr(function, "clear", None)
        if release:
            release()
