"""A plan and what its store has in, more seeds for its holes out: `[spectrum] fill`.

A hole is a (source, level) with fewer than `fill` accepted images. It gets further seeds, in rounds of as many as it
lacks, until it is covered or `fill_seeds` were tried. Which seeds those are follows from the scores alone, so kills,
restarts and slots leave the same store.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from discl.config.values import first_seeds
from discl.plan import Plan, PlannedSample
from discl.recipe import source_digests
from discl.recorded import Recorded
from discl.sources import Source


@dataclass(frozen=True)
class Round:
    """What to make now: of `plan`, the wishes whose first attempts have these keys."""

    plan: Plan
    keys: frozenset[str]

    def settles(self, recorded: Recorded):
        """As for `Attempts.due`; what is not of this round is settled."""
        return lambda planned: recorded(planned) if (planned.attempt_of or planned.key) in self.keys else True


class Filling:
    """Rounds for a plan. fill: accepted images that every (source, level) shall have. limit: seeds tried for it."""

    def __init__(self, plan: Plan, fill: int, limit: int):
        self.plan, self.fill = plan, fill
        given = plan.spectrum.seeds
        self.seeds = tuple(seed for seed in first_seeds(len(given) + limit) if seed not in given)[:limit]
        self._sources: dict[Source, Source] = {}

    def next(self, recorded: Recorded) -> Round | None:
        """The wishes that are due, those of rounds that were interrupted included; None once nothing is."""
        sources, keys = [], set()
        for source in self.plan.sources:
            due = [each.key for each in self._due(source, recorded)]
            if due:
                sources.append(self._sources[source])
                keys.update(due)
        return Round(self._plan(sources), frozenset(keys)) if keys else None

    def _due(self, source: Source, recorded: Recorded) -> Iterator[PlannedSample]:
        first = list(self.plan.samples_of(source))
        for level in self.plan.spectrum.levels:
            of_level = [each for each in first if each.level == level]
            if any(self.plan.missing(each, recorded) for each in of_level):
                continue  # the plan itself is not done here
            lack = self.fill - sum(self._accepted(self.plan, each, recorded) for each in of_level)
            if lack > 0 and not any(recorded.hopeless(each) for each in of_level):
                yield from self._more(source, level, lack, recorded)

    def _more(self, source: Source, level: int, lack: int, recorded: Recorded) -> Iterator[PlannedSample]:
        plan = self._plan([self._with_seeds(source)])
        left = [each for each in plan if each.level == level]
        while lack > 0 and left:
            turn, left = left[:lack], left[lack:]
            due = [each for each in turn if plan.missing(each, recorded)]
            if due:
                yield from due
                return
            lack -= sum(self._accepted(plan, each, recorded) for each in turn)

    def _accepted(self, plan: Plan, first: PlannedSample, recorded: Recorded) -> bool:
        return any(recorded.accepted(plan.attempt(first, retry)) for retry in range(plan.attempts.most))

    def _with_seeds(self, source: Source) -> Source:
        """The source with the noise of the further seeds; its file is read once, when it has a hole."""
        if source not in self._sources:
            data = Path(self.plan.table.source(source.rows[0])).read_bytes()
            self._sources[source] = Source(source.rows, *source_digests(data, self.seeds))
        return self._sources[source]

    def _plan(self, sources: list[Source]) -> Plan:
        spectrum = self.plan.spectrum.model_copy(update={"seeds": self.seeds})
        return replace(self.plan, spectrum=spectrum, sources=sources, quarantined=[], _texts={})
