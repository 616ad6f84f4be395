"""One model is loaded at a time, whatever the threads.

diffusers (through accelerate) and transformers exchange parts of torch while they build a model. Two threads at it
build each other's weights without memory, and may put back what the other had exchanged: no model can be built then
until the process ends.
"""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")

_turn = threading.RLock()


def one_at_a_time(load: Callable[P, R]) -> Callable[P, R]:
    """A loader that waits until every other one is through."""

    @functools.wraps(load)
    def waiting(*args: P.args, **options: P.kwargs) -> R:
        with _turn:
            return load(*args, **options)

    return waiting
