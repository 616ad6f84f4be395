"""A plan and what its store has in, more seeds for its holes out: `[spectrum] fill`.

A hole is a (source, level) with fewer than `fill` accepted images. It gets further seeds, in rounds of as many as it
lacks, until it is covered or `fill_seeds` were tried. Which seeds those are follows from the scores alone, so kills,
restarts and slots leave the same store.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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

    def __len__(self) -> int:
        """Samples to make, without the retries that they may bring."""
        return len(self.keys) * self.plan.attempts.best_of

    def settles(self, recorded: Recorded):
        """As for `Attempts.due`; what is not of this round is settled."""
        return lambda planned: recorded(planned) if (planned.attempt_of or planned.key) in self.keys else True


class Filling:
    """Rounds for a plan whose spectrum has `fill`."""

    def __init__(self, plan: Plan):
        self.plan, self.fill = plan, int(plan.spectrum.fill)
        given, limit = plan.spectrum.seeds, plan.spectrum.fill_seeds
        self.seeds = tuple(seed for seed in first_seeds(len(given) + limit) if seed not in given)[:limit]
        self._sources: dict[Source, Source] = {}
        self._tried = frozenset[str]()

    def next(self, recorded: Recorded) -> Round | None:
        """The wishes that are due, those of rounds that were interrupted included; None once nothing is.

        What cannot be made, as a source that was lost meanwhile, stays due: it does not make a round by itself again.
        """
        sources, keys = [], set()
        for source in self.plan.sources:
            due = [each.key for each in self._due(source, recorded)]
            if due:
                sources.append(self._sources[source])
                keys.update(due)
        if keys <= self._tried:
            return None
        self._tried |= keys
        return Round(self.plan.with_seeds(self.seeds, sources), frozenset(keys))

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
        plan = self.plan.with_seeds(self.seeds, [self._with_seeds(source)])
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
