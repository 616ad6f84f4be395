"""The processes of one training, as torchrun starts them: who am I, and what all of us share.

Every rank holds the whole model and takes its rows of each global batch; gradients are averaged by
DistributedDataParallel. Batch norm: statistics of the global batch on CUDA (SyncBatchNorm); on CPUs, where torch has
no such layer, each rank normalises by its own rows and rank 0's running statistics count, as is DDP's rule.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """rank of world processes; local: its number on this machine, which is its GPU's. Alone, nothing is sent."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Rank 0 writes what a training leaves behind."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This rank's own device of the kind that `name` tells."""
        device = torch.device(name)
        return torch.device("cuda", self.local) if self.world > 1 and device.type == "cuda" else device

    def parallel(self, module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """`module` with gradients that are the mean over ranks of each rank's."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over ranks of a tensor that none of them needs any more; the host does not wait for it on CUDA."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def gather(self, item: Item) -> list[Item]:
        """Everyone's item, by rank."""
        items: list[Any] = [item] * self.world
        if self.world > 1:
            dist.all_gather_object(items, item)
        return items

    def agree(self, item: Item) -> Item:
        """Rank 0's item."""
        items = [item]
        if self.world > 1:
            dist.broadcast_object_list(items)
        return items[0]

    def agree_on(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put rank 0's values into these tensors."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the ranks that the environment tells of (RANK, WORLD_SIZE, LOCAL_RANK): NCCL on "cuda", gloo on "cpu".

    A process group that the caller has made is used and left as it is.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    if device.startswith("cuda"):
        torch.cuda.set_device(ranks.local)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield ranks
    finally:
        if ours:
            dist.destroy_process_group()
