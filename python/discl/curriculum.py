"""A dataset, a policy and an epoch become pools with quotas: what an epoch is drawn from (paper 3)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil, floor

import numpy as np

from discl.errors import ConfigError
from discl.policies import POLICIES, Stage

log = logging.getLogger(__name__)

NATURAL = "none"  # real images in their own distribution, as many per epoch as the mixed plan draws


@dataclass(frozen=True)
class Pool:
    """`quota` draws from `ids` (int64 rows of the dataset): all different while quota <= len(ids)."""

    name: str
    ids: np.ndarray
    quota: int


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
        found = np.unique(dataset.levels[dataset.is_synth]).tolist()
        self.levels = tuple(sorted(found if levels is None else levels))
        if not found and config.policy not in (NATURAL, "real-only"):
            raise ConfigError(
                f"curriculum.policy = {config.policy!r} needs accepted synthetic images and there are none; "
                "generate, lower score.threshold, or use policy 'real-only'"
            )
        self.epochs = min(config.curriculum_epochs, config.epochs)
        if self.epochs < config.curriculum_epochs and config.policy not in (NATURAL, "real-only"):
            log.warning(
                "curriculum.curriculum_epochs = %d but there are only curriculum.epochs = %d: the levels share those",
                config.curriculum_epochs,
                config.epochs,
            )

    @cached_property
    def tail(self) -> np.ndarray:
        return np.flatnonzero(self.dataset.tail).astype(np.int64)

    @cached_property
    def nontail(self) -> np.ndarray:
        return np.flatnonzero(~self.dataset.is_synth & ~self.dataset.tail).astype(np.int64)

    @cached_property
    def mix(self) -> Mix:
        """The same in every epoch and for every policy, so that policies are compared at equal steps."""
        exact = {name: Fraction(repr(getattr(self.config, name))) for name in ("nontail_share", "synthetic_scale")}
        share = self.tail_share
        mixed = mix(len(self.nontail), len(self.tail), share, exact["nontail_share"], exact["synthetic_scale"])
        log.info("tail share %s: %d tail and %d other images per epoch", share, mixed.tail, mixed.nontail)
        return mixed

    @cached_property
    def tail_share(self) -> Fraction:
        """The tail's target share. "auto" is #tail classes / #classes; where tail and rest share classes, the
        share that the grown tail has by nature."""
        if self.config.tail_share == 0:
            raise ConfigError("curriculum.tail_share = 0 leaves no place for the tail; use a share above 0 or 'auto'")
        if self.config.tail_share != "auto":
            return Fraction(repr(self.config.tail_share))
        labels = self.dataset.labels
        tail, rest = np.unique(labels[self.tail]), np.unique(labels[self.nontail])
        if not np.intersect1d(tail, rest).size:
            return Fraction(len(tail), max(len(tail) + len(rest), 1))
        grown = len(self.tail) + floor(Fraction(repr(self.config.synthetic_scale)) * len(self.tail))
        return Fraction(grown, grown + len(self.nontail))

    def active_levels(self, epoch: int, progress: Mapping[int, float]) -> tuple[int, ...]:
        """The epoch's image-guidance levels; () means real images only, as after `curriculum_epochs`."""
        if self.config.policy == NATURAL or epoch >= self.epochs:
            return ()
        level = getattr(self.config, "level", None)
        stage = Stage(self.levels, epoch, self.epochs, self.seed, level, progress)
        return POLICIES[self.config.policy](stage)

    def epoch_plan(self, epoch: int, progress: Mapping[int, float] | None = None) -> EpochPlan:
        """The pools of `epoch`, a pure function of its arguments."""
        levels = self.active_levels(epoch, progress or {})
        if self.config.policy == NATURAL:
            everything = np.arange(self.dataset.n_real, dtype=np.int64)
            pools = [Pool("real", everything, self.mix.nontail + self.mix.tail)]
        else:
            pools = [Pool("nontail", self.nontail, self.mix.nontail), *self._tail_pools(levels)]
        plan = EpochPlan(epoch, levels, tuple(pool for pool in pools if pool.quota))
        self._check(plan)
        return plan

    def _tail_pools(self, levels: tuple[int, ...]) -> list[Pool]:
        """Every real tail image once, the rest synthetic; real ones repeat where no synthetic one serves."""
        of_level = self.dataset.is_synth & np.isin(self.dataset.levels, levels)
        synthetic = np.flatnonzero(of_level).astype(np.int64)
        if levels and not len(synthetic):
            log.warning("no accepted image at level %s: real tail images repeat", ", ".join(map(str, levels)))
        if not len(synthetic):
            return [Pool("tail", self.tail, self.mix.tail)]
        once = len(self.tail)
        return [Pool("tail", self.tail, once), Pool("synthetic", synthetic, self.mix.tail - once)]

    def _check(self, plan: EpochPlan) -> None:
        """The set algebra of Algorithm 1: S_level, D_hard and D_other are disjoint and what they claim."""
        dataset = self.dataset
        members = {
            "real": ~dataset.is_synth,
            "tail": ~dataset.is_synth & dataset.tail,
            "nontail": ~dataset.is_synth & ~dataset.tail,
            "synthetic": dataset.is_synth & np.isin(dataset.levels, plan.levels),
        }
        assert plan.total == self.mix.nontail + self.mix.tail
        for pool in plan.pools:
            assert len(pool.ids) and members[pool.name][pool.ids].all(), pool.name
