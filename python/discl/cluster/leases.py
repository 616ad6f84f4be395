"""A plan's sources in, blocks of them out, each to one worker at a time, until every block is done."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from discl.sources import Source

MOST_LOSSES = 3


class Block(NamedTuple):
    """Consecutive sources of the plan. `losses`: workers that were lost while they had it."""

    number: int
    losses: int = 0


class Leases:
    """Blocks of `size` sources, in the plan's order; what a lost worker had comes first again.

    Memory is that of the blocks that are out. A block with which MOST_LOSSES workers were lost is given up: it may be
    what kills them.
    """

    def __init__(self, sources: Sequence[Source], size: int) -> None:
        self._sources, self._size = sources, size
        self._next, self.total = 0, -(-len(sources) // size)
        self._back: deque[Block] = deque()
        self._out: dict[str, dict[int, Block]] = {}
        self.given_up: list[Block] = []

    def sources(self, block: Block) -> tuple[Source, ...]:
        return tuple(self._sources[block.number * self._size : (block.number + 1) * self._size])

    def lease(self, worker: str) -> Block | None:
        """A block for this worker; None when none waits."""
        if self._back:
            block = self._back.popleft()
        elif self._next < self.total:
            block = Block(self._next)
            self._next += 1
        else:
            return None
        self._out.setdefault(worker, {})[block.number] = block
        return block

    def done(self, worker: str, number: int) -> None:
        """All samples of the block are sealed and entered. KeyError for a block that the worker does not have."""
        del self._out[worker][number]

    def lost(self, worker: str) -> list[Block]:
        """The worker is no more: its blocks wait again. Returns those that are given up instead."""
        blocks = [Block(block.number, block.losses + 1) for block in self._out.pop(worker, {}).values()]
        hopeless = [block for block in blocks if block.losses >= MOST_LOSSES]
        self._back.extend(block for block in blocks if block.losses < MOST_LOSSES)
        self.given_up += hopeless
        return hopeless

    def held(self, worker: str) -> int:
        """Blocks that the worker has."""
        return len(self._out.get(worker, ()))

    @property
    def waiting(self) -> int:
        return len(self._back) + self.total - self._next

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing is out."""
        return not self.waiting and not any(self._out.values())
