"""Which of a worker's leased blocks are made, and which of those are sealed."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from discl.cluster.messages import Leased
from discl.feed import Feed
from discl.making import Finished, Making
from discl.plan import Plan, PlannedSample
from discl.progress import Meter
from discl.sources import Source

if TYPE_CHECKING:
    from discl.engine import Request


class Ledger:
    """A block is made when its sources are handed out and all that came of them is written.

    It is sealed when the shard of its last sample is: shards are sealed in order.
    """

    def __init__(self, plan: Plan) -> None:
        self._labels = plan.table.labels
        self._due: dict[int, int] = {}  # block -> samples that are wished and not written, one more while it is open
        self._blocks: dict[int, Leased] = {}
        self._block: dict[tuple[str, int], int] = {}  # source digest and class -> block
        self._known: dict[str, bool] = {}
        self._made: deque[tuple[int, int]] = deque()  # (block, shard of its last sample)

    def sources(self, block: Leased) -> Iterator[Source]:
        """The block's sources; it is open until the one after the last is asked for."""
        self._blocks[block.number], self._due[block.number] = block, 1
        self._known |= block.known
        for source in block.sources:
            self._block[source.digest, int(self._labels[source.rows[0]])] = block.number
            yield source
        self._less(block.number, shard=-1)

    def settles(self, planned: PlannedSample) -> bool | None:
        return self._known.get(planned.key)

    def wished(self, planned: PlannedSample) -> None:
        self._due[self._block[planned.source_digest, planned.class_id]] += 1

    def written(self, row: dict[str, Any], shard: int) -> None:
        """A sample has been appended; `shard` is the youngest there is."""
        self._less(self._block[row["source_digest"], row["class_id"]], shard)

    def _less(self, number: int, shard: int) -> None:
        self._due[number] -= 1
        if self._due[number]:
            return
        del self._due[number]
        block = self._blocks.pop(number)
        for source in block.sources:
            del self._block[source.digest, int(self._labels[source.rows[0]])]
        for key in block.known:
            del self._known[key]
        self._made.append((number, max(shard, self._made[-1][1] if self._made else -1)))

    def take_sealed(self, shard: float) -> list[int]:
        """The made blocks of which nothing lies in a shard above this one; each is given once."""
        taken = []
        while self._made and self._made[0][1] <= shard:
            taken.append(self._made.popleft()[0])
        return taken


class LeasedFeed(Feed):
    """A feed that tells the ledger what it wishes."""

    def __init__(self, ledger: Ledger, plan: Plan, on_bad: Callable[[str, str], None]) -> None:
        super().__init__(plan, ledger.settles, on_bad)
        self._ledger, self._wished = ledger, set[str]()

    def over(self, sources: Iterator[Source | None]) -> "LeasedFeed":
        self._sources = sources
        return self

    def _start(self, planned: PlannedSample, request: "Request") -> "Request":
        if planned.key in self._wished:  # a follow-up, counted when it was asked for: its block must not end before
            self._wished.remove(planned.key)
        else:
            self._ledger.wished(planned)
        return super()._start(planned, request)

    def finish(self, planned: PlannedSample, request: "Request", settled: bool) -> int:
        count = super().finish(planned, request, settled)
        for follow_up, _ in list(self._follow_ups)[len(self._follow_ups) - count :]:
            self._ledger.wished(follow_up)
            self._wished.add(follow_up.key)
        return count


@dataclass
class LeasedMaking(Making):
    """on_written(sample, whether it is a retry): told of every row."""

    ledger: Ledger
    on_written: Callable[[Finished, bool], None]

    def _write(self, finished: Finished, meter: Meter) -> None:
        super()._write(finished, meter)
        self.ledger.written(finished.row, self.writer.youngest)
        self.on_written(finished, finished.row["retry"] >= self.plan.attempts.best_of)
