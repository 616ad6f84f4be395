"""Which levels and how many seeds fit into [budget], by its priorities; what was cut."""

from typing import NamedTuple

from discl.config import BudgetConfig
from discl.errors import ConfigError
from discl.plan import Plan
from discl.planning.estimate import Estimate, estimate
from discl.planning.rates import Rates


class Choice(NamedTuple):
    """levels: in the config's order. seeds: the first so many of the config's."""

    levels: tuple[int, ...]
    seeds: int
    cut_levels: tuple[int, ...]
    cut_seeds: int
    estimate: Estimate

    @property
    def cut(self) -> bool:
        return bool(self.cut_levels or self.cut_seeds)


def choose(plan: Plan, rates: Rates, budget: BudgetConfig) -> Choice | None:
    """The most that fits; None where not one seed at the first level does.

    budget.keep = "levels" gives up seeds first, and levels only when one seed of all does not fit; "seeds" gives up
    levels first. Levels go from the end of budget.levels, those that it does not name before.
    """
    all_levels, all_seeds = plan.spectrum.levels, len(plan.spectrum.seeds)
    ranked = priority(budget, all_levels)
    level_counts, seed_counts = range(len(ranked), 0, -1), range(all_seeds, 0, -1)
    pairs = (
        ((levels, seeds) for levels in level_counts for seeds in seed_counts)
        if budget.keep == "levels"
        else ((levels, seeds) for seeds in seed_counts for levels in level_counts)
    )
    for count, seeds in pairs:
        kept = tuple(level for level in all_levels if level in ranked[:count])
        cost = estimate(plan, rates, budget, kept, seeds)
        if fits(cost, budget):
            return Choice(kept, seeds, tuple(ranked[count:]), all_seeds - seeds, cost)
    return None


def priority(budget: BudgetConfig, levels: tuple[int, ...]) -> list[int]:
    """The levels, the most wanted first. ConfigError for one that the spectrum lacks."""
    unknown = set(budget.levels) - set(levels)
    if unknown:
        raise ConfigError(f"[budget] levels = {list(budget.levels)}: {sorted(unknown)} are not in [spectrum] levels")
    return [*budget.levels, *(level for level in levels if level not in budget.levels)]


def fits(cost: Estimate, budget: BudgetConfig) -> bool:
    """usd limits the money, hours the time on all workers. ConfigError for money without a price."""
    if budget.usd and cost.usd is None:
        raise ConfigError(f"[budget] usd = {budget.usd:g} needs usd_per_hour, the price of one worker")
    cheap = not budget.usd or cost.usd is None or cost.usd <= budget.usd
    return cheap and (not budget.hours or cost.hours / budget.workers <= budget.hours)
