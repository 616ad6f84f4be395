"""A store's shards in, their scores out, each by one of many Ray actors; Ray starts anew who is lost."""

import logging
import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from discl.cluster.connection import LOOK_S, Cluster, as_actor, connected, gpus_per_worker, room
from discl.cluster.members import different_versions
from discl.errors import DisclError, RunFailed
from discl.progress import Meter
from discl.quarantine import Record
from discl.run_record import versions
from discl.scoring.request import ScoreRequest
from discl.scoring.score import StoreScoring
from discl.store import Store
from discl.store.manifest import Shard

log = logging.getLogger(__name__)

RESTARTS = 10  # of an actor, and tries of a shard, before the command gives up


class Outcome(NamedTuple):
    """Of a call. refused: why this actor would give other scores than the driver asked for. bad: images, so far."""

    host: str
    refused: str
    bad: list[tuple[str, str]]


@dataclass(frozen=True)
class ScoringTask:
    """What every actor is told. definition: the digest that its own must equal. folder: where the driver stands, since
    paths may be relative to it."""

    store: Store
    request: ScoreRequest
    definition: str
    versions: dict[str, str]
    folder: str


class ScoringActor:
    """Loads what it needs at its first call: Ray may start it anew, elsewhere."""

    def __init__(self) -> None:
        self._bad: list[tuple[str, str]] = []  # the command writes them down: one process writes that file
        self._scoring: StoreScoring | None = None
        self._refused = ""

    def score(self, task: ScoringTask, shard: Shard | None) -> Outcome:
        """Nothing for None: the actor has loaded by then."""
        self._scoring = scoring = self._scoring or self._load(task)
        if shard and not self._refused:
            scoring.score([shard], Meter("score", 0))
        return Outcome(socket.gethostname(), self._refused, self._bad)

    def _load(self, task: ScoringTask) -> StoreScoring:
        with suppress(OSError):
            os.chdir(task.folder)
        scoring = StoreScoring(task.store, task.request, self._bad.extend)
        wrong = different_versions(versions(), task.versions)
        if scoring.definition["digest"] != task.definition:
            wrong.append("its CLIP, classifier or real images are others than those of the command")
        self._refused = "; ".join(wrong)
        return scoring


class ScoringActors:
    """Shards go to whoever is free; further actors start when the cluster has room for them."""

    def __init__(self, ray, cluster: Cluster, task: ScoringTask, shards: Sequence[Shard]) -> None:
        self._ray, self._cluster = ray, cluster
        self._gpus = gpus_per_worker(ray, cluster, task.request.device)
        self._kind = as_actor(ray, cluster, self._gpus, ScoringActor, max_restarts=RESTARTS, max_task_retries=RESTARTS)
        self._task, self._due = ray.put(task), deque(shards)
        self._calls: dict[Any, tuple[Any, Shard | None]] = {}  # call -> actor, its shard or None while it loads
        self._started = 0

    def run(self, record: Record, meter: Meter) -> None:
        meter.start()
        while self._due or any(shard for _, shard in self._calls.values()):
            self._grow()
            ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=LOOK_S)
            for call in ready:
                actor, shard = self._calls.pop(call)
                outcome = self._answer(call)
                record(outcome.bad)
                if outcome.refused:
                    self._refuse(actor, shard, outcome)
                    continue
                if shard:
                    meter.advance(count=shard.rows)
                if self._due:
                    shard = self._due.popleft()
                    self._calls[actor.score.remote(self._task, shard)] = (actor, shard)
            meter.on_event({"event": "beat"})

    def _grow(self) -> None:
        """Start actors while there is room, and a shard for each."""
        loading = sum(shard is None for _, shard in self._calls.values())
        while loading < len(self._due) and self._started < room(self._ray, self._cluster, self._gpus):
            actor = self._kind.remote()
            self._calls[actor.score.remote(self._task, None)] = (actor, None)
            self._started, loading = self._started + 1, loading + 1

    def _refuse(self, actor: Any, shard: Shard | None, outcome: Outcome) -> None:
        """The rest goes on, if there is one."""
        reason = f"the scoring worker on {outcome.host} is refused: {outcome.refused}"
        log.warning("%s", reason)
        self._ray.kill(actor)
        if shard:
            self._due.appendleft(shard)
        if not self._calls:
            raise RunFailed(f"{reason}; install and copy the same on every node")

    def _answer(self, call: Any) -> Outcome:
        """StoreError and the like as an actor raised them; RunFailed for one that was lost too often."""
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DisclError):
                raise error.cause from error
            raise RunFailed(
                f"a scoring worker failed: {error.cause!r}; what was scored is kept, start again"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise RunFailed(f"scoring workers were lost too often: {error}; start again to continue") from error


def score_on(
    cluster: Cluster, store: Store, request: ScoreRequest, definition: str, shards: Sequence[Shard],
    record: Record, meter: Meter,
) -> None:  # fmt: skip
    """Score these shards on the cluster. definition: the digest of what every actor's scores must depend on."""
    with connected(cluster) as ray:
        task = ScoringTask(Store(store.path.absolute()), request, definition, versions(), os.getcwd())
        ScoringActors(ray, cluster, task, shards).run(record, meter)
