"""A plan and what is known of its samples in, the engine's requests out, follow-up attempts among them.

The engine reads requests ahead of the samples that it gives back, so follow-ups come while it runs: first those that
finished samples have asked for, then what the plan lacks, then None ("nothing now", see `Engine.run`) while a sample
under way may still ask for one.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from discl.plan import Plan, PlannedSample, Settles, make_request
from discl.sources import Source

if TYPE_CHECKING:
    from discl.engine import Request


class Feed:
    """Iterate it once, in `Engine.run`; tell `finish` of every sample before the next is asked for.

    settles: what the store knows of a sample, as for `Attempts.due`. on_bad(path, reason): told of unusable sources.
    sources: others than the plan's, see `Plan.due`; a None among them only while not `idle`.
    """

    def __init__(
        self,
        plan: Plan,
        settles: Settles,
        on_bad: Callable[[str, str], None] | None = None,
        sources: Iterable[Source | None] | None = None,
    ):
        self.plan = plan
        self._settles, self._on_bad, self._sources = settles, on_bad, sources
        self._follow_ups: deque[tuple[PlannedSample, Request]] = deque()
        self._running: dict[str, PlannedSample] = {}
        self._ended: dict[str, dict[int, bool]] = defaultdict(dict)  # first attempt's key -> retry -> settled

    def __iter__(self) -> Iterator["Request | None"]:
        for due in self.plan.due(self._settles, self._on_bad, self._sources):
            yield from self._ready()
            yield self._start(*due) if due else None
        while self._follow_ups or self._more_may_come():
            yield from self._ready()
            if self._more_may_come():
                yield None

    def _ready(self) -> Iterator["Request"]:
        while self._follow_ups:
            yield self._start(*self._follow_ups.popleft())

    def _start(self, planned: PlannedSample, request: "Request") -> "Request":
        self._running[planned.key] = planned
        return request

    def _more_may_come(self) -> bool:
        most = self.plan.attempts.most
        return self.plan.attempts.retries > 0 and any(each.retry + 1 < most for each in self._running.values())

    @property
    def idle(self) -> bool:
        """Nothing is under way or waits to be."""
        return not self._running and not self._follow_ups

    def planned(self, request: "Request") -> PlannedSample:
        """What a request under way was planned as."""
        return self._running[request.key or ""]

    def finish(self, planned: PlannedSample, request: "Request", settled: bool) -> int:
        """Count a sample as made. Returns how many follow-ups it brings.

        settled: whether it ends its wish, as for `Attempts.due`.
        """
        del self._running[planned.key]
        wish = planned.attempt_of or planned.key
        self._ended[wish][planned.retry] = settled
        missing = self.plan.missing(planned, lambda each: self._known(wish, each))
        if missing and missing[0].retry < self.plan.attempts.best_of:
            return 0  # other candidates are under way, or the plan has yet to give them
        if not missing:
            del self._ended[wish]
        self._follow_ups.extend((each, make_request(each, request.image, request.size)) for each in missing)
        return len(missing)

    def _known(self, wish: str, planned: PlannedSample) -> bool | None:
        ended = self._ended[wish].get(planned.retry)
        return self._settles(planned) if ended is None else ended
