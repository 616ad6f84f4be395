"""The one that holds the plan: workers' reports in, orders out, their sealed shards into the store.

It knows no clock but for the progress it shows, and no network: `actors` brings the reports.
"""

import logging
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pyarrow as pa

from discl.cluster.leases import Block, Leases
from discl.cluster.members import Member, different_versions
from discl.cluster.messages import Assignment, Hello, Leased, Orders, Report
from discl.errors import RunFailed
from discl.filling import Filling
from discl.judge import judge_of
from discl.plan import Plan, PlannedSample, Settles
from discl.progress import Meter, OnEvent
from discl.quarantine import Quarantine
from discl.recorded import COLUMNS, Recorded
from discl.store import Store, StoreWriter
from discl.store.adoption import workers_folder

log = logging.getLogger(__name__)

BLOCK_REQUESTS = 64  # a block's requests, about: some steps of work, and little to make again
SKEW_S = 60.0


class Coordinator:
    """assignment.plan has all sources here."""

    def __init__(
        self, assignment: Assignment, writer: StoreWriter, quarantine: Quarantine, meter: Meter, on_event: OnEvent
    ) -> None:
        self.plan, self.config, self.run_id = assignment.plan, assignment.config, assignment.run_id
        self.writer, self.quarantine, self.meter, self.on_event = writer, quarantine, meter, on_event
        self.members: dict[str, Member] = {}
        self.hello: Hello | None = None  # of the first worker, whom the others must equal
        self.counts: Counter[str] = Counter()
        self.levels: dict[int, Counter[str]] = {level: Counter() for level in self.plan.spectrum.levels}
        self.errors: list[dict[str, Any]] = []
        self._had_keys = bool(writer.keys)
        meter.spent = lambda seconds: self.seconds["workers"]
        self._recorded: Recorded | None = None
        self._filling = Filling(self.plan) if self.plan.spectrum.fill != "none" else None
        if self.plan.spectrum.retries or self._filling:
            self._recorded = Recorded(self.config.score, Store(writer.root), writer.unsealed_rows())
        recorded = self._recorded if self.plan.spectrum.retries else None
        samples = len(self.plan) * self.plan.attempts.best_of
        self._begin(self.plan, samples, recorded or (lambda planned: planned.key in writer.keys or None))

    def _begin(self, plan: Plan, samples: int, settles: Settles) -> None:
        """Lease the plan's sources, which have so many samples to make."""
        per_source = max(1, samples // max(1, len(plan.sources)))
        self.leases = Leases(plan.sources, max(1, BLOCK_REQUESTS // per_source))
        self._leasing, self._settles = plan, settles

    def begin_round(self) -> bool:
        """Lease what `[spectrum] fill` asks for, now that every block is done; whether it asks for more."""
        if self._filling is None or self._recorded is None or self.leases.given_up:
            return False
        due = self._filling.next(self._recorded)
        if due is not None:
            self.meter.total = self.meter.done + len(due)
            self._begin(due.plan, len(due), due.settles(self._recorded))
        return due is not None

    @property
    def seconds(self) -> dict[str, float]:
        """All workers' together: of loading, of working, and what of that their engines and writers took by stage."""
        members = list(self.members.values())
        stages = Counter[str]()
        for member in members:
            stages.update(member.stats.get("seconds", {}))
        return {**stages, "load": sum(m.load for m in members), "workers": sum(m.seconds for m in members)}

    def join(self) -> Member:
        """A worker that will be started."""
        name = f"{self.run_id}-{len(self.members):04d}"
        self.members[name] = Member(name, workers_folder(self.writer.root) / name)
        return self.members[name]

    def greet(self, member: Member, hello: Hello, versions: dict[str, str]) -> bool:
        """Whether the worker may work; why not is said."""
        member.host, member.load, member.seen = hello.host, hello.load, time.time()
        wrong = self._differences(member, hello, versions)
        if wrong:
            self._ended(member, "refused", f"{'; '.join(wrong)}. Install and copy the same on every node")
            return False
        if abs(hello.clock - time.time()) > SKEW_S:
            log.warning(
                "%s: its clock is %.0f s off; nothing depends on it but created_at",
                hello.host,
                hello.clock - time.time(),
            )
        if not self.hello and member.folder.joinpath("manifest").is_dir():  # it has calibrated early rejection
            tables = self.writer.adopt(member.folder)
            self._enter(tables)
            self._had_keys |= bool(tables)
            self.meter.total -= sum(map(len, tables))
        member.began = time.monotonic()
        member.state, self.hello = "working", self.hello or hello
        return True

    def _differences(self, member: Member, hello: Hello, versions: dict[str, str]) -> list[str]:
        wrong = different_versions(hello.versions, versions)
        if hello.recipe != self.plan.recipe_digest:
            wrong.append(f"its model or recipe has the digest {hello.recipe}, here it is {self.plan.recipe_digest}")
        if not member.folder.is_dir():
            wrong.append(f"its folder {member.folder} cannot be seen from here: the store must lie on a shared disk")
        first = self.hello or hello
        if (hello.scorer, hello.slots) != (first.scorer, first.slots):
            wrong.append(
                f"scorer and slots {hello.scorer}, {hello.slots}; the first worker has {first.scorer}, {first.slots}"
            )
        return wrong

    def orders(self, member: Member, wants: int, stop: bool = False) -> Orders:
        """What the worker shall do next."""
        blocks: list[Leased] = []
        while not stop and len(blocks) < wants and (block := self.leases.lease(member.name)):
            leased = self._leased(member, block)
            if leased:
                blocks.append(leased)
        return Orders(tuple(blocks), drain=not self.leases.waiting, stop=stop)

    def _leased(self, member: Member, block: Block) -> Leased | None:
        """The block with what the store knows of it; None where nothing is missing."""
        sources = self.leases.sources(block)
        seeds = self._leasing.spectrum.seeds
        if self._leasing is self.plan and not self._had_keys and not block.losses:
            return Leased(block.number, sources, {}, seeds)
        known: dict[str, bool] = {}

        def settles(planned: PlannedSample) -> bool | None:
            ended = self._settles(planned)
            if ended is not None:
                known[planned.key] = ended
            return ended

        firsts = (first for source in sources for first in self._leasing.samples_of(source))
        if sum(len(self._leasing.missing(first, settles)) for first in firsts):
            return Leased(block.number, sources, known, seeds)
        self.leases.done(member.name, block.number)
        return None

    def take(self, member: Member, report: Report) -> None:
        """A report: shards first, then what they make done."""
        member.seen, member.stats = time.time(), report.stats or member.stats
        if report.sealed:
            self._enter(self.writer.adopt(member.folder))
        for number in report.done:
            self.leases.done(member.name, number)
        for path, reason in report.bad:
            self.on_event({"event": "quarantined", "path": path, "reason": reason})
        self._count(member, report)
        self.quarantine.add(report.bad)

    def _count(self, member: Member, report: Report) -> None:
        for (level, status, accepted, retry), count in report.counts.items():
            member.samples += count
            self.counts[status] += count
            self.counts["accepted"] += accepted * count
            self.counts["retried"] += retry * count
            self.levels[level]["made"] += count
            self.levels[level]["accepted"] += accepted * count
            self.meter.total += retry * count
            self.meter.advance(accepted, count)

    def lost(self, member: Member, state: str, reason: str) -> None:
        """The worker is no more, or not to be trusted: what it wrote is entered, its blocks wait again."""
        self._ended(member, state, reason)
        self._enter(self.writer.adopt_lost(member.folder))
        for block in self.leases.lost(member.name):
            ids = [self.plan.table.ids[source.rows[0]] for source in self.leases.sources(block)]
            self._error(
                member, f"block {block.number} is given up, it was with {block.losses} workers that were lost: {ids}"
            )

    def _enter(self, tables: list[pa.Table]) -> None:
        if self._recorded:
            for table in tables:
                for batch in table.select(COLUMNS).to_batches():
                    self._recorded.add(batch)

    def _ended(self, member: Member, state: str, reason: str) -> None:
        member.state, member.ended = state, time.monotonic()
        if reason:
            self._error(member, f"{state}: {reason}")

    def _error(self, member: Member, text: str) -> None:
        log.warning("worker %s on %s %s", member.name, member.host, text)
        self.errors.append({"time": time.time(), "worker": member.name, "host": member.host, "reason": text})
        del self.errors[:-100]
        self.on_event({"event": "worker", "worker": member.name, "host": member.host, "reason": text})

    def beat(self) -> None:
        """Nothing has come for a moment: listeners may want to stop."""
        self.on_event({"event": "beat"})

    def facts(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "slots": self.hello and self.hello.slots,
            "scorer": self.hello.scorer if self.hello else judge_of(self.config),
            "counts": {**self.counts, "planned": len(self.plan), "quarantined": self.quarantine.count},
            "levels": {str(level): dict(counts) for level, counts in self.levels.items()},
            "unet_evaluations": sum(member.evaluations for member in self.members.values()),
            "slot_occupancy": self._occupancy(),
            "workers": [member.facts() for member in self.members.values()],
            "errors": self.errors,
        }

    def _occupancy(self) -> float:
        """Share of all workers' network rows that carried work."""
        members = [member for member in self.members.values() if member.evaluations]
        rows = sum(member.evaluations / member.stats["slot_occupancy"] for member in members)
        return sum(member.evaluations for member in members) / rows if members else 1.0

    def tidy(self) -> None:
        """Nothing of the workers is left beside the store, unless somebody is late."""
        with suppress(OSError):
            workers_folder(self.writer.root).rmdir()

    def check_complete(self) -> None:
        """RunFailed where blocks had to be given up."""
        given_up = self.leases.given_up
        if given_up:
            raise RunFailed(
                f"{len(given_up)} blocks of sources were given up, each after {given_up[0].losses} workers were lost "
                f"with it; start again to try once more. The last error: {self.errors[-1]['reason']}"
            )
