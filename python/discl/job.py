"""What one process makes: the attempts that the store lacks, and the retries that their scores ask for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from discl.feed import Feed
from discl.filling import Filling
from discl.making import Making, margin_of
from discl.plan import Settles
from discl.progress import Meter, OnEvent
from discl.quarantine import Quarantine
from discl.recorded import Recorded
from discl.rejection import find_rule
from discl.store import Store

if TYPE_CHECKING:
    from discl.engine import Engine, Sample


@dataclass
class Job(Making):
    """unsealed: the rows that no sealed shard had when the run began, or its early rejection had been calibrated."""

    quarantine: Quarantine
    on_event: OnEvent
    unsealed: list[dict[str, Any]]

    def missing(self) -> int:
        """Samples to make at least: attempts that the store lacks, without the retries that these may bring."""
        if not self.writer.keys:
            return len(self.plan) * self.plan.attempts.best_of
        settles = self._settles()
        planned = sum(len(self.plan.missing(first, settles)) for first in self.plan)
        return planned or self._due_to_fill()

    def _due_to_fill(self) -> int:
        due = Filling(self.plan).next(self._recorded(self.unsealed)) if self.config.spectrum.fill != "none" else None
        return len(due) if due else 0

    def _recorded(self, unsealed: list[dict[str, Any]]) -> Recorded:
        return Recorded(self.config.score, Store(self.writer.root), unsealed)

    def _settles(self) -> Settles:
        """What the store knows of a sample by now; the scores count only where they can bring retries."""
        if self.config.spectrum.retries:
            return self._recorded(self.unsealed)
        return lambda planned: planned.key in self.writer.keys or None

    def run(self, engine: "Engine", total: int) -> None:
        """Make all of them. Whatever stops this, the rows appended so far are whole."""
        meter = Meter("generate", total, self.on_event, self.config.budget.usd_per_hour)
        margin = margin_of(engine, self.config, self.table.class_names)
        make = lambda feed: self.make(engine, feed, margin, meter)  # noqa: E731
        if self.config.engine.early_rejection:
            rule = find_rule(self.config, self.plan, engine, lambda keys: list(self._again(keys, make, meter)))
            engine.reject_by(rule and engine.judge(rule))
            self.unsealed = self.writer.unsealed_rows()
        for _ in make(Feed(self.plan, self._settles(), self._bad)):
            pass
        if self.config.spectrum.fill != "none":
            self._fill(make, meter)

    def _fill(self, make: Callable[[Feed], Iterator["Sample"]], meter: Meter) -> None:
        """Rounds of further seeds where holes are, until there are none or all seeds were tried."""
        filling, recorded = Filling(self.plan), self._recorded(self.writer.unsealed_rows())
        while due := filling.next(recorded):
            meter.total = meter.done + len(due)
            for _ in make(Feed(due.plan, due.settles(recorded), self._bad)):
                pass
            recorded = self._recorded(self.writer.unsealed_rows())

    def _again(self, keys: frozenset[str], make, meter: Meter) -> Iterator["Sample"]:
        """The samples of these keys, those that the store has as well: for what is to be seen of them on their way."""
        meter.total += sum(key in self.writer.keys for key in keys)
        return make(Feed(self.plan, lambda planned: planned.key not in keys or None, self._bad))

    def _bad(self, path: str, reason: str) -> None:
        self.on_event({"event": "quarantined", "path": path, "reason": reason})
        self.quarantine.add([(path, reason)])
