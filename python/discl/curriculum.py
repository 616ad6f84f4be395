"""A dataset, a policy and an epoch become pools with quotas: what an epoch is drawn from (paper 3)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil, floor

import numpy as np

from discl.errors import ConfigError
from discl.groups import CHUNK, Groups, Rows
from discl.policies import POLICIES, Stage
from discl.tail_targets import TARGETS

log = logging.getLogger(__name__)

NATURAL = "none"  # real images in their own distribution, as many per epoch as the mixed plan draws


@dataclass(frozen=True)
class Pool:
    """`quota` draws from `ids`: all different while quota <= len(ids), or in proportion to `weights`, by row."""

    name: str
    ids: Rows
    quota: int
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class EpochPlan:
    """The pools of one epoch and its active levels; `total` images are drawn."""

    epoch: int
    levels: tuple[int, ...]
    pools: tuple[Pool, ...]

    @property
    def total(self) -> int:
        return sum(pool.quota for pool in self.pools)


@dataclass(frozen=True)
class Mix:
    """How many images of the tail and of the rest one epoch holds."""

    nontail: int
    tail: int


def mix(nontail: int, tail: int, share: Fraction, nontail_share: Fraction, scale: Fraction) -> Mix:
    """The mixing rule of paper 3.4 for `nontail` and `tail` real images, in exact arithmetic.

    floor(nontail_share * nontail) images of the rest fix the tail's count by its share. The tail then holds
    every real tail image at least once and at most floor(scale * tail) more; the rest follows the share.
    """
    if not nontail or not tail or share == 1:
        return Mix(0 if tail else nontail, tail and tail + floor(scale * tail))
    rest = floor(nontail_share * nontail)
    wanted = floor(share / (1 - share) * rest)
    allowed = min(max(wanted, tail), tail + floor(scale * tail))
    if allowed != wanted:
        rest = min(ceil(allowed * (1 - share) / share), nontail)
    return Mix(rest, allowed)


class Curriculum:
    """Epoch plans for one dataset. `config` is CurriculumConfig.

    levels: the spectrum's; default: those the dataset holds. A curriculum longer than `epochs` is shortened to
    them, so that every level still gets its turn. Raises ConfigError for an unknown policy, or one
    that needs synthetic images where there are none.
    """

    def __init__(self, dataset, config, seed: int, levels: tuple[int, ...] | None = None):
        if config.policy != NATURAL and config.policy not in POLICIES:
            raise ConfigError(
                f"curriculum.policy = {config.policy!r}; expected one of {', '.join([*POLICIES, NATURAL])}"
            )
        self.dataset, self.config, self.seed = dataset, config, seed
        self.fill = getattr(config, "fill", "share")
        self.real_tail = getattr(config, "real_tail", True)
        self.classes = len(dataset.class_names)
        lost: tuple[int, int] = getattr(dataset, "lost", (0, 0))
        self.lost_rest, self.lost_tail = lost
        self.found = _distinct(dataset.levels[dataset.n_real :])
        self.levels = tuple(sorted(self.found if levels is None else levels))
        if not self.found and config.policy not in (NATURAL, "real-only"):
            raise ConfigError(
                f"curriculum.policy = {config.policy!r} needs accepted synthetic images and there are none; "
                "generate, lower score.threshold, or use policy 'real-only'"
            )
        if -1 in self.found and -1 not in self.levels and config.policy not in (NATURAL, "real-only"):
            log.warning("selected images without a level, as imported image folders have none, are never drawn")
        self.epochs = min(config.curriculum_epochs, config.epochs)
        if self.epochs < config.curriculum_epochs and config.policy not in (NATURAL, "real-only"):
            log.warning(
                "curriculum.curriculum_epochs = %d but there are only curriculum.epochs = %d: the levels share those",
                config.curriculum_epochs,
                config.epochs,
            )

    @cached_property
    def real(self) -> Groups:
        """Real rows: the rest by class, then the tail by class."""
        dataset, classes = self.dataset, self.classes
        return Groups(lambda a, b: dataset.labels[a:b] + dataset.tail[a:b] * classes, dataset.n_real, 2 * classes)

    @cached_property
    def synthetic(self) -> Groups:
        """Synthetic rows by level, then by class."""
        dataset, classes, first = self.dataset, self.classes, self.dataset.n_real
        least, most = min([*self.found, 0]), max([*self.found, 0])
        place = np.zeros(most - least + 1, np.int64)  # rows without a level, -1, have its last entry
        place[self.found] = np.arange(len(self.found)) * classes
        return Groups(
            lambda a, b: place[dataset.levels[first + a : first + b]] + dataset.labels[first + a : first + b],
            len(dataset.labels) - first, len(self.found) * classes, first,
        )  # fmt: skip

    @cached_property
    def tail(self) -> Rows:
        return self.real.rows(range(self.classes, 2 * self.classes))

    @cached_property
    def nontail(self) -> Rows:
        return self.real.rows(range(self.classes))

    @cached_property
    def mix(self) -> Mix:
        """The same in every epoch and for every policy, so that policies are compared at equal steps."""
        exact = {name: Fraction(repr(getattr(self.config, name))) for name in ("nontail_share", "synthetic_scale")}
        share = self.tail_share
        real = len(self.nontail) + self.lost_rest, len(self.tail) + self.lost_tail
        mixed = mix(*real, share, exact["nontail_share"], exact["synthetic_scale"])
        log.info("tail share %s: %d tail and %d other images per epoch", share, mixed.tail, mixed.nontail)
        return mixed

    @cached_property
    def total(self) -> int:
        """Images per epoch: the same for every epoch and policy."""
        if self.fill == "union":
            return self.dataset.n_real + self.lost_rest + self.lost_tail
        if self.fill in TARGETS:
            return self.rest + int(self.targets.sum())
        return self.mix.nontail + self.mix.tail

    @cached_property
    def rest(self) -> int:
        """Images of the rest per epoch where `fill` counts by class."""
        return floor(Fraction(repr(self.config.nontail_share)) * len(self.nontail))

    @cached_property
    def targets(self) -> np.ndarray:
        """int64 [C]: tail images per epoch by class, see `discl.tail_targets`."""
        return TARGETS[self.fill](self)

    @cached_property
    def tail_share(self) -> Fraction:
        """The tail's target share. "auto" is #tail classes / #classes; where tail and rest share classes, the
        share that the grown tail has by nature."""
        if self.config.tail_share == 0:
            raise ConfigError("curriculum.tail_share = 0 leaves no place for the tail; use a share above 0 or 'auto'")
        if self.config.tail_share != "auto":
            return Fraction(repr(self.config.tail_share))
        rest, tail = self.real.counts.reshape(2, -1) > 0
        if not (tail & rest).any():
            return Fraction(int(tail.sum()), max(int(tail.sum() + rest.sum()), 1))
        real = len(self.tail) + self.lost_tail
        grown = real + floor(Fraction(repr(self.config.synthetic_scale)) * real)
        return Fraction(grown, grown + len(self.nontail) + self.lost_rest)

    def active_levels(self, epoch: int, progress: Mapping[int, float]) -> tuple[int, ...]:
        """The epoch's image-guidance levels; () means real images only, as after `curriculum_epochs`."""
        if self.config.policy == NATURAL or epoch >= self.epochs:
            return ()
        level = getattr(self.config, "level", None)
        stage = Stage(self.levels, epoch, self.epochs, self.seed, level, progress)
        return POLICIES[self.config.policy](stage)

    def epoch_plan(
        self,
        epoch: int,
        progress: Mapping[int, float] | None = None,
        class_levels: Mapping[int, Sequence[int]] | None = None,
        weights: np.ndarray | None = None,
    ) -> EpochPlan:
        """The pools of `epoch`, a pure function of its arguments.

        class_levels: class -> the levels that it draws from in curriculum epochs instead of the policy's.
        weights: float32 [N] by row; every pool is then drawn in proportion to them.
        """
        levels = self.active_levels(epoch, progress or {})
        if self.config.policy == NATURAL:
            pools = [Pool("real", Rows([range(self.dataset.n_real)]), self.total, weights)]
        else:
            own = (class_levels or {}) if epoch < self.epochs else {}
            pools = self._pools(levels, own, weights)
            levels = tuple(sorted({*levels, *(set().union(*own.values()) & set(self.found))}))
        plan = EpochPlan(epoch, levels, tuple(pool for pool in pools if pool.quota))
        self._check(plan)
        return plan

    def _pools(self, levels: Sequence[int], own: Mapping[int, Sequence[int]], weights) -> list[Pool]:
        """The rest, the real tail and the levels' synthetic images; real ones repeat where no synthetic one serves."""
        chosen = [(label, set(own.get(label, levels))) for label in range(self.classes)]
        synthetic = self._synthetic(chosen)
        if levels and not len(synthetic):
            log.warning("no accepted image at level %s: real tail images repeat", ", ".join(map(str, levels)))
        if self.fill == "union":
            return self._union(synthetic, weights)
        if self.fill in TARGETS:
            by_class = (pool for one in chosen if self.targets[one[0]] for pool in self._class_pools(*one, weights))
            return [Pool("nontail", self.nontail, self.rest, weights), *by_class]
        tail = self._filled(self.tail, synthetic, self.mix.tail, weights)
        return [Pool("nontail", self.nontail, self.mix.nontail, weights), *tail]

    def _synthetic(self, chosen: Sequence[tuple[int, set[int]]]) -> Rows:
        """Synthetic rows of (class, levels)."""
        return self.synthetic.rows(
            place * self.classes + label
            for place, level in enumerate(self.found)
            for label, wanted in chosen
            if level in wanted
        )

    def _class_pools(self, label: int, wanted: set[int], weights) -> list[Pool]:
        real, synthetic = self.real.rows([self.classes + label]), self._synthetic([(label, wanted)])
        return self._filled(real, synthetic, int(self.targets[label]), weights)

    def _filled(self, real: Rows, synthetic: Rows, count: int, weights) -> list[Pool]:
        """`count` images: every real one once, unless real_tail is off, the others synthetic."""
        if not len(synthetic):
            return [Pool("tail", real, count, weights)]
        once = len(real) if self.real_tail else 0
        return [Pool("tail", real, once, weights), Pool("synthetic", synthetic, count - once, weights)]

    def _union(self, synthetic: Rows, weights) -> list[Pool]:
        """The union without a ratio (paper 3.5), as many draws as there are real images, in proportion to the parts."""
        parts = [("nontail", self.nontail), ("synthetic", synthetic)]
        if self.real_tail or not len(synthetic):
            parts.insert(1, ("tail", self.tail))
        whole = sum(len(rows) for _, rows in parts)
        ends = np.cumsum([0, *(len(rows) for _, rows in parts)]) * self.total // whole
        quotas = np.diff(ends).tolist()
        if len(parts) == 3 and 0 < quotas[1] < len(self.tail) <= self.total:  # every real tail image at least once
            short = len(self.tail) - quotas[1]
            largest = 0 if quotas[0] >= quotas[2] else 2
            quotas[1], quotas[largest] = quotas[1] + short, quotas[largest] - short
        return [Pool(name, rows, quota, weights) for (name, rows), quota in zip(parts, quotas, strict=True)]

    def _check(self, plan: EpochPlan) -> None:
        """The set algebra of Algorithm 1 where segments begin and end: pools are disjoint and what they claim."""
        dataset = self.dataset
        assert plan.total == self.total
        assert len(self.nontail) + len(self.tail) == dataset.n_real
        for pool in plan.pools:
            rows = np.array([row for segment in pool.ids.segments for row in (segment[0], segment[-1])])
            made, tail, level = dataset.is_synth[rows], dataset.tail[rows], dataset.levels[rows]
            holds = {
                "real": ~made,
                "tail": ~made & tail,
                "nontail": ~made & ~tail,
                "synthetic": made & np.isin(level, plan.levels),
            }
            assert len(rows) and holds[pool.name].all(), pool.name

    def class_counts(self, plan: EpochPlan) -> np.ndarray:
        """float64 [C]: how many images of each class an epoch of this plan holds, in expectation."""
        counts = np.zeros(self.classes)
        for pool in plan.pools:
            shares = np.zeros(self.classes)
            for rows in _chunks(pool.ids):
                by_row = None if pool.weights is None else pool.weights[rows]
                shares += np.bincount(self.dataset.labels[rows], by_row, minlength=self.classes)
            counts += shares * (pool.quota / shares.sum())
        return counts


def _chunks(rows: Rows):
    """Slices and arrays of at most CHUNK rows."""
    for segment in rows.segments:
        for start in range(0, len(segment), CHUNK):
            part = segment[start : start + CHUNK]
            yield slice(part.start, part.stop) if isinstance(part, range) else part


def _distinct(values: np.ndarray) -> list[int]:
    """The distinct values of a long array of small integers, ascending."""
    parts = (np.unique(values[start : start + CHUNK]) for start in range(0, len(values), CHUNK))
    return sorted({int(value) for part in parts for value in part})
