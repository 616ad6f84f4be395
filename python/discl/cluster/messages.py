"""What the coordinator and its workers say to each other. Everything here is small and can be pickled."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from discl.config import RunConfig
from discl.plan import Plan
from discl.sources import Source


@dataclass(frozen=True)
class Assignment:
    """What every worker of a run is told once. `plan` has no sources, which come in blocks: the first worker alone may
    have all of them, to calibrate early rejection with."""

    config: RunConfig
    plan: Plan
    run_id: str
    slots: int | str


class Hello(NamedTuple):
    """What a worker is, once its engine is loaded. clock: its time.time() when it said so. load: seconds it took."""

    host: str
    versions: dict[str, str]
    recipe: str
    scorer: dict[str, Any] | None
    slots: int
    clock: float
    load: float = 0.0


class Leased(NamedTuple):
    """A block to make. known: keys of its samples that the store has, or that are not wished for -> whether that ended
    their wish. seeds: of the sources' noise."""

    number: int
    sources: tuple[Source, ...]
    known: dict[str, bool]
    seeds: tuple[int, ...]


class Orders(NamedTuple):
    """drain: nothing more waits, so finish and seal. stop: seal what there is, now."""

    blocks: tuple[Leased, ...] = ()
    drain: bool = False
    stop: bool = False


@dataclass
class Report:
    """What happened since the last one.

    done: blocks whose samples are all sealed. sealed: shards. wants: blocks it could begin or queue. counts: samples
    by (level, status, accepted, retried). failed: why the worker ended, with the name of the error's class.
    """

    done: list[int] = field(default_factory=list)
    sealed: int = 0
    wants: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[tuple[int, str, bool, bool]] = field(default_factory=Counter)
    follow_ups: int = 0
    stats: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    failed: str | None = None
