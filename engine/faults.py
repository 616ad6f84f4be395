"""What goes wrong on a device: which errors mean too little memory, which a lost device; how many slots still fit."""

import logging
from dataclasses import dataclass

import torch

from discl.errors import RunFailed

log = logging.getLogger(__name__)

# Libraries that allocate for themselves, and the CPU's allocator, say it in words of their own.
MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "can't allocate memory")
FIRST_PATIENCE = 200  # steps without trouble before twice the slots are tried


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer slots may help."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def is_lost_device(error: BaseException) -> bool:
    """Whether the process can use its device no more: every later call would fail as well."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def lost_device(error: BaseException) -> RunFailed:
    line = str(error).strip().splitlines()[0]
    return RunFailed(
        f"the device was lost ({line}); what was made is safe: start the run again in a new process to continue it"
    )


@dataclass
class Capacity:
    """How many slots fit the device: halved when memory runs out, doubled after a while; after longer if that fails."""

    asked: int
    slots: int = 0
    patience: int = FIRST_PATIENCE
    quiet: int = 0  # steps since the slots last changed
    grown: bool = False  # whether they last grew

    def __post_init__(self):
        self.slots = self.slots or self.asked

    def halve(self, error: BaseException) -> None:
        """Raises RunFailed when a single slot is already too much."""
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if self.slots == 1:
            raise RunFailed(f"one slot alone does not fit the memory ({line}): use a smaller size, model or dtype")
        if self.grown:
            self.patience *= 2
        self.slots, self.quiet, self.grown = (self.slots + 1) // 2, 0, False
        log.warning("out of memory: going on with %d slots instead of %d (%s)", self.slots, self.asked, line)

    def step(self) -> bool:
        """Count a step that went well; whether it is time to try more slots."""
        self.quiet += 1
        return self.slots < self.asked and self.quiet >= self.patience

    def grow(self) -> None:
        self.slots, self.quiet, self.grown = min(2 * self.slots, self.asked), 0, True
        log.info("memory was enough for a while: trying %d slots", self.slots)
