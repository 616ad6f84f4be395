"""A worker: leased blocks in, sealed shards in a store of its own out, reports to the coordinator in between.

One thread runs the engine, another talks. The next block is there before the last one ends, so that the engine's slots
stay full across blocks; once the coordinator has no more, or only some with other seeds, the round ends, everything is
sealed, and a new round can begin.
"""

import logging
import math
import queue
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from discl.cluster.ledger import LeasedFeed, LeasedMaking, Ledger
from discl.cluster.messages import Assignment, Hello, Leased, Orders, Report
from discl.config import RunConfig
from discl.feed import Feed
from discl.judge import judge_of
from discl.making import Finished, Making, margin_of
from discl.progress import Meter
from discl.recipe import digest, make_recipe
from discl.rejection import find_rule, rule_file
from discl.run_record import versions
from discl.sources import Source
from discl.store import StoreWriter

if TYPE_CHECKING:
    from discl.engine import Engine, Sample
    from discl.engine.rejection import Rule

log = logging.getLogger(__name__)

QUEUED = 2  # blocks that wait in a worker, so that none is waited for
BEAT_S = 2.0  # a report at least so often: each takes the coordinator a millisecond or two
SHARD_SECONDS = 120.0  # a lost worker costs at most that, where its disk is lost with it
MakeEngine = Callable[[RunConfig, "int | str"], "Engine"]


class Worker:
    """`folder`: the worker's own store. Call `hello` first: it loads the engine; then `exchange`, again and again."""

    def __init__(self, assignment: Assignment, folder: Path, make: MakeEngine) -> None:
        self._given, self._folder, self._make = assignment, folder, make
        self._blocks: queue.SimpleQueue[Leased | None] = queue.SimpleQueue()
        self._lock, self._news = threading.Lock(), threading.Event()
        self._report, self._queued = Report(), 0
        self._drain = self._stop = False
        self._thread: threading.Thread | None = None
        self._aside: Leased | None = None  # begins the next round
        self._ledger = Ledger(assignment.plan)
        self._seconds: defaultdict[str, float] = defaultdict(float)  # of writing, by stage

    def hello(self) -> Hello:
        """Load the engine. Raises what that raises."""
        config, plan, began = self._given.config, self._given.plan, time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        recipe = digest(make_recipe(config)) if config.model.path else plan.recipe_digest
        self._engine = engine = self._make(config, self._given.slots)
        self._margin = margin_of(engine, config, plan.table.class_names)
        if config.engine.early_rejection:
            rule = self._calibrated() if plan.sources else self._rule()
            engine.reject_by(rule and engine.judge(rule))
        judge, load = judge_of(config, engine), time.monotonic() - began
        return Hello(socket.gethostname(), versions(), recipe, judge, engine.slots, time.time(), load)

    def _rule(self) -> "Rule | None":
        """What the run's first worker has calibrated; None where the plan was too small for it."""
        from discl.engine.rejection import Rule

        file = rule_file(self._given.config.store.path, self._given.plan.recipe_digest)
        return Rule.load(file) if file.is_file() else None

    def _calibrated(self) -> "Rule | None":
        """The same, found by making the samples that it takes: they are sealed before this worker says hello."""
        config, plan = self._given.config, self._given.plan
        with self._writer() as writer:
            making = Making(config, plan, plan.table, writer, self._given.run_id)

            def make(keys: frozenset[str]) -> list["Sample"]:
                feed = Feed(plan, lambda planned: planned.key not in keys or None, self._bad)
                return list(making.make(self._engine, feed, self._margin, Meter("calibrate", len(keys))))

            return find_rule(config, plan, self._engine, make)

    def exchange(self, orders: Orders) -> Report:
        """Take orders; return when there is news, or after BEAT_S."""
        if self._thread is None:  # not before: what was sealed until now is being entered
            self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
            self._thread.start()
        with self._lock:
            self._drain, self._stop = orders.drain, self._stop or orders.stop
            self._queued += len(orders.blocks)
        for block in orders.blocks:
            self._blocks.put(block)
        if orders.drain or orders.stop:
            self._blocks.put(None)  # whoever waits for a block looks up
        self._news.wait(BEAT_S)
        with self._lock:
            self._news.clear()
            report = self._report
            self._report = Report(stopped=report.stopped, failed=report.failed)
            report.wants = max(0, QUEUED - self._queued)
        stats = self._engine.stats
        report.stats = {"unet_evaluations": stats.unet_evaluations, "slot_occupancy": stats.slot_occupancy}
        stages = {f"engine.{stage}": seconds for stage, seconds in dict(stats.seconds).items()}
        report.stats["seconds"] = stages | dict(self._seconds)
        return report

    def stop(self) -> None:
        """As the order does: for a signal handler."""
        self._stop = True
        self._blocks.put(None)

    def _work(self) -> None:
        try:
            with self._engine, self._writer() as writer:
                while not self._stop:
                    block, self._aside = self._aside or self._blocks.get(), None  # None: an order to look up
                    if block is not None and not self._stop:
                        self._round(block, writer)
            self._tell_sealed(math.inf)
        except BaseException as error:
            log.warning("this worker ends", exc_info=True)
            self._report.failed = f"{type(error).__name__}: {error}"
        self._report.stopped = True
        self._news.set()

    def _writer(self) -> StoreWriter:
        store = self._given.config.store
        return StoreWriter(
            self._folder,
            self._given.run_id,
            shard_bytes=round(store.shard_mb * 1e6),
            shard_seconds=store.shard_seconds or SHARD_SECONDS,
            embeddings=store.embeddings and self._given.config.score is not None,
            user_columns=tuple(self._given.plan.table.columns),
            on_sealed=self._sealed,
        )

    def _round(self, first: Leased, writer: StoreWriter) -> None:
        """From the first block until there are no more of its seeds for now; all is sealed at the end."""
        plan = self._given.plan.with_seeds(first.seeds)
        self._ledger = ledger = Ledger(plan)
        given = self._given.config, plan, plan.table, writer, self._given.run_id
        making = LeasedMaking(*given, ledger, self._written, seconds=self._seconds)
        feed = LeasedFeed(ledger, plan, self._bad)
        feed.over(self._sources(first, ledger, feed))
        for _ in making.make(self._engine, feed, self._margin, Meter("generate", 0)):
            if self._stop:
                return
        self._news.set()  # sealing takes a while: the last samples are told of before
        writer.seal()
        self._tell_sealed(math.inf)

    def _sources(self, block: Leased, ledger: Ledger, feed: LeasedFeed) -> Iterator[Source | None]:
        """The sources of this block and of all that follow; None while none follows and samples are under way."""
        while True:
            with self._lock:
                self._queued -= 1
                self._news.set()
            yield from ledger.sources(block)
            while (following := self._following(feed.idle)) is None:
                if self._stop or (self._drain and self._blocks.empty()):
                    return
                if not feed.idle:
                    yield None
            if following.seeds != block.seeds:
                self._aside = following
                return
            block = following

    def _following(self, wait: bool) -> Leased | None:
        """The next block. Waiting ends with None when a drain or stop is ordered."""
        try:
            return self._blocks.get(block=wait and not self._drain)
        except queue.Empty:
            return None

    def _sealed(self, number: int) -> None:
        with self._lock:
            self._report.sealed += 1
        self._tell_sealed(number)

    def _tell_sealed(self, shard: float) -> None:
        """Up to this one all shards are sealed."""
        done = self._ledger.take_sealed(shard)
        with self._lock:
            self._report.done += done
            self._news.set()

    def _written(self, finished: Finished, retry: bool) -> None:
        row = finished.row
        with self._lock:
            self._report.counts[row["level"], row["status"], finished.accepted, retry] += 1

    def _bad(self, path: str, reason: str) -> None:
        with self._lock:
            self._report.bad.append((path, reason))
