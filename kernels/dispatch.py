"""Where a kernel runs: a tensor in, "Triton or torch" out. The one place that imports Triton.

Triton decides between compiling and interpreting when a function is jitted, so a `Kernel` jits at its launch.
"""

import contextlib
import functools
import importlib.util
import types
from collections.abc import Callable
from typing import Any

import torch

# Fused multiply-adds round once where torch rounds twice: without them kernel and reference agree.
OPTIONS = {"enable_fp_fusion": False}

_INSTALLED = importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """True while Triton's own switch TRITON_INTERPRET is on: kernels then run on the CPU, in numpy."""
    if not _INSTALLED:
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def uses_triton(tensor: torch.Tensor) -> bool:
    """The dispatch rule: Triton for CUDA tensors and in the interpreter, else the torch reference.

    While torch.compile traces, it gets the reference: plain torch that it fuses itself, in one graph.
    """
    return not torch.compiler.is_compiling() and (tensor.is_cuda or interpreting())


def stays_triton(tensor: torch.Tensor) -> bool:
    """The rule for a kernel that torch.compile has no match for: on CUDA it is an operator of the compiled code."""
    return tensor.is_cuda if torch.compiler.is_compiling() else uses_triton(tensor)


class Kernel:
    """A Triton kernel, or a part that kernels of its module call by its name, written as a plain function."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.jitted: dict[bool, Any] = {}

    def launch(self, grid: tuple[int, ...], *arguments: Any, device: torch.device, **constants: Any) -> None:
        """Runs `grid` programs on `device`; an empty grid is no launch at all."""
        if 0 in grid:
            return
        here = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with here:
            self.jitted_function()[grid](*arguments, **constants, **OPTIONS)

    def jitted_function(self) -> Any:
        """Triton's own object for the mode that is on now: to launch, to call, or to compile ahead of time."""
        import triton
        import triton.language

        interpret = interpreting()
        if interpret not in self.jitted:
            # Triton looks names up in a copy of the module, where `tl` and the parts of this mode are what it knows.
            code, names = self.function.__code__, dict(self.function.__globals__, tl=triton.language)
            for name in code.co_names:
                if isinstance(names.get(name), Kernel):
                    names[name] = names[name].jitted_function()
            seen = functools.update_wrapper(types.FunctionType(code, names), self.function)
            self.jitted[interpret] = triton.jit(seen)
        return self.jitted[interpret]
