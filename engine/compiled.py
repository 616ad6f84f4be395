"""torch.compile as static graphs: one for each shape of the inputs, compiled at its first call and never again.

On CUDA the compiled code is captured into a CUDA graph as well: inputs are copied to fixed addresses, and the outputs
are copied out, since the next replay overwrites them.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch.utils import _pytree as pytree

from discl.engine.reproducible import StableAttention

# Measured on a CPU (1 core of AMD Zen 5, the benchmark's UNet, float32 and bfloat16): freezing, channels_last and fused
# QKV projections change the time by less than its spread. On an H200 (UNet of SD 1.5, 32 rows, bfloat16): 91 ms eager,
# 64 ms compiled after a minute, no less with cuDNN's attention. Autotuning compiles for many minutes and may choose
# other last bits in every process.
OPTIONS: dict[str, dict[str, Any]] = {"cuda": {}, "cpu": {}}
SHAPES = 4096  # graphs of one function, beyond which torch.compile would fall back to eager; its own limit is 8
WARM_UP = 3  # calls before a capture: they compile, tune and allocate


def prepared(function: Callable, device: torch.device, compiled: bool) -> Callable:
    """`function` of tensors as its device runs it: rows alike on a CPU, and as static graphs if `compiled`."""

    def stable(*inputs):
        with StableAttention():
            return function(*inputs)

    alike = stable if device.type == "cpu" else function
    return StaticGraphs(alike, device) if compiled else alike


def arrange(module: torch.nn.Module, device: torch.device) -> None:
    """Lay a diffusers module out, in place, as compiled CUDA code likes it best; others, and again, change nothing."""
    if device.type != "cuda" or not hasattr(module, "fuse_qkv_projections"):
        return
    if any(getattr(layer, "fused_projections", False) for layer in module.modules()):
        return
    module.to(memory_format=torch.channels_last)
    attentions = [layer for layer in module.modules() if isinstance(layer, Attention)]
    projections = [getattr(layer, name, None) for layer in attentions for name in ("to_q", "to_k", "to_v")]
    if all(isinstance(layer, torch.nn.Linear) for layer in projections):  # float8 layers have joined by themselves
        module.fuse_qkv_projections()


class ByShape:
    """A function of tensors (nested in tuples, None among them) that is made for every shape it is called with.

    make: inputs -> the function for inputs of these shapes. On CUDA it is captured into a graph.
    """

    def __init__(self, make: Callable[[tuple], Callable], device: torch.device):
        self.device, self._make = device, make
        self._calls: dict[Any, Callable] = {}
        self._memory = GraphMemory() if device.type == "cuda" else None

    def __call__(self, *inputs: Any) -> Any:
        shape = _shape(inputs)
        if shape not in self._calls:
            call = self._make(inputs)
            self._calls[shape] = CudaGraph(call, inputs, self._memory) if self._memory else call
        return self._calls[shape](*inputs)

    def clear(self) -> None:
        """Give the memory of what was made back; compiled code is kept."""
        self._calls.clear()


class StaticGraphs(ByShape):
    """`function` compiled by torch for every shape."""

    def __init__(self, function: Callable, device: torch.device):
        super().__init__(self._compile, device)
        self._compiled = torch.compile(function, dynamic=False, fullgraph=True, options=OPTIONS[device.type])

    def _compile(self, inputs: tuple) -> Callable:
        with torch._dynamo.config.patch(recompile_limit=SHAPES, accumulated_recompile_limit=SHAPES):
            self._compiled(*inputs)
        return self._compiled


def _shape(inputs: tuple) -> tuple:
    leaves, structure = pytree.tree_flatten(inputs)
    return structure, *((x.shape, x.dtype, x.stride()) if isinstance(x, torch.Tensor) else x for x in leaves)


class GraphMemory:
    """What the CUDA graphs of one function share: their memory, and so the rule that one runs after the other.

    stream: where they are warmed up and captured, and no other function's. torch has one cuBLAS workspace for each
    stream, and a graph keeps the address of the one it was captured with: graphs captured on one stream would write
    into each other's sums when they run side by side (pytorch/pytorch#193402).
    """

    def __init__(self):
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()
        self.free = torch.cuda.Event()


class CudaGraph:
    """One captured call of a function at fixed addresses. It may be called from any stream."""

    def __init__(self, function: Callable, inputs: tuple, memory: GraphMemory):
        self._inputs = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
        self._memory = memory
        stream, current = memory.stream, torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(*self._inputs)
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate pinned memory meanwhile.
        with torch.cuda.graph(self._graph, pool=memory.pool, stream=stream, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Any) -> Any:
        stream = torch.cuda.current_stream()
        stream.wait_event(self._memory.free)
        for fixed, given in zip(pytree.tree_leaves(self._inputs), pytree.tree_leaves(inputs), strict=True):
            if isinstance(given, torch.Tensor):
                fixed.copy_(given, non_blocking=True)
        self._graph.replay()
        outputs = pytree.tree_map_only(torch.Tensor, torch.clone, self._outputs)
        self._memory.free.record(stream)
        return outputs
