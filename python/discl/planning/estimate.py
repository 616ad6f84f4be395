"""A plan and rates in, what each level and all of them will take out."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from discl.config import BudgetConfig
from discl.level_work import LevelWork
from discl.pace import span
from discl.plan import Plan
from discl.planning.rates import Rates, whole_batches

SEAL_S = 120.0  # what a preempted worker loses at most, of which half on average


class LevelCost(NamedTuple):
    """attempts: images to make, expected where retries depend on scores. accepted: None where nothing was measured.
    hours: of this level's work alone."""

    level: int
    attempts: float
    evaluations: float
    accepted: float | None
    hours: float


class Estimate(NamedTuple):
    """hours: of one worker, or all workers' together: the levels' work, sources, starts, idle rows and preemptions.
    usd: None where no price is given. span: of the hours, what four runs of five will take; None if unknown.
    """

    levels: tuple[LevelCost, ...]
    hours: float
    usd: float | None
    waste: float
    span: tuple[float, float] | None = None

    @property
    def attempts(self) -> float:
        return sum(level.attempts for level in self.levels)

    @property
    def evaluations(self) -> float:
        return sum(level.evaluations for level in self.levels)

    @property
    def accepted(self) -> float | None:
        known = [level.accepted for level in self.levels if level.accepted is not None]
        return sum(known) if len(known) == len(self.levels) else None


def estimate(
    plan: Plan, rates: Rates, budget: BudgetConfig, levels: Iterable[int] | None = None, seeds: int | None = None
) -> Estimate:
    """Of the plan, or of these levels and so many seeds of it."""
    chosen = plan.spectrum.levels if levels is None else tuple(levels)
    wishes = len(plan.sources) * (len(plan.spectrum.seeds) if seeds is None else seeds)
    waste = preemption_waste(budget.preemption_hours, rates.start)
    costs = tuple(_level(level, wishes, plan, rates, waste) for level in chosen)
    starts = max(1, budget.workers) if wishes else 0
    work = _work(costs, plan, rates, starts)
    hours = (work + starts * rates.start) / 3600 / (1 - waste)
    usd = hours * budget.usd_per_hour if budget.usd_per_hour else None
    return Estimate(costs, hours, usd, waste, _span(hours, rates, work / max(1, starts)))


def _span(hours: float, rates: Rates, each: float) -> tuple[float, float] | None:
    """each: seconds of one worker's work. Its start, seen once, is taken to be as unsteady."""
    if rates.unsteady is None:
        return None
    off = 1 + span(rates.unsteady, rates.seen, each)
    return hours / off, hours * off


def _work(costs: Sequence[LevelCost], plan: Plan, rates: Rates, workers: int) -> float:
    """Seconds of all workers, starts aside. Each has its own last batches, which may not be full."""
    longest = max((plan.work[cost.level].steps for cost in costs), default=0)
    each = sum(cost.evaluations for cost in costs) / max(1, workers)
    rows = workers * whole_batches(each, rates.rows, longest)
    return rates.seconds(rows, sum(cost.attempts for cost in costs), len(plan.sources) if workers else 0)


def _level(level: int, wishes: int, plan: Plan, rates: Rates, waste: float) -> LevelCost:
    work: LevelWork = plan.work[level]
    share = rates.acceptance.get(level)
    attempts = wishes * attempts_per_wish(share, plan.attempts.best_of, plan.attempts.retries)
    evaluations = attempts * work.evaluations * (1 - rates.avoided)
    accepted = None if share is None else attempts * share
    hours = rates.seconds(evaluations, attempts) / 3600 / (1 - waste)
    return LevelCost(level, attempts, evaluations, accepted, hours)


def attempts_per_wish(share: float | None, best_of: int, retries: int) -> float:
    """Expected, for attempts that are accepted independently with this probability; unknown counts as all accepted.

    After `best_of` at once, retry k is made where all before failed: best_of + sum over k of (1 - p)^(best_of + k).
    """
    if share is None:
        return best_of
    return best_of + sum((1 - share) ** (best_of + retry) for retry in range(retries))


def preemption_waste(mean_life_hours: float, start_s: float) -> float:
    """Share of a worker's time that is lost: each life ends with half an unsealed shard and begins with a start."""
    if not mean_life_hours:
        return 0.0
    return min(0.99, (SEAL_S / 2 + start_s) / (3600 * mean_life_hours))
