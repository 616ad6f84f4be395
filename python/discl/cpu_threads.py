"""How many threads torch computes with on the CPU: it is in the last bits of an image, so a recipe's runs keep it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """torch computes with so many inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_of(recipe: str, earlier: Sequence[Mapping[str, Any]], device: str) -> int:
    """Those that the recipe's first run recorded, where a CPU computes; else as many as torch would take here."""
    import torch

    here = torch.get_num_threads()
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    recorded = next((run["threads"] for run in earlier if run.get("threads") and run.get("recipe_digest") == recipe), 0)
    if on_gpu or recorded in (0, here):
        return here
    log.warning(
        "computing with %d CPU threads instead of %d: the store was begun with as many, and with another images "
        "differ in their last bits",
        recorded,
        here,
    )
    return recorded
