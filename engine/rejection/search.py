"""Which checks of a level save most: a beam search over steps and gates, on two-fold predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from discl.engine.rejection.evidence import evidence, expectation
from discl.engine.rejection.logistic import Logistic
from discl.engine.rejection.rule import Check, LevelRule
from discl.engine.rejection.traces import Traces

SHARES = (0.05, 0.1, 0.15, 0.2, 0.28, 0.36, 0.46, 0.56, 0.66)  # of the executed steps, where a check may lie
GATES = (0.3, 0.45, 0.6, 0.8, 1.0)  # shares of the samples, the least promising first, that a check may look at
MOST_CHECKS = 3
AROUND = (0.5, 1.0, 1.5)  # times the limit: few samples lie below one bound, so three are averaged
BEAM = 12  # partial choices of checks that are tried further


def candidate_checks(steps: int) -> tuple[int, ...]:
    """Executed steps, of `steps`, after which a check may lie; at least two steps are left to save."""
    return tuple(sorted({max(1, round(share * steps)) for share in SHARES} & set(range(1, steps - 1))))


@dataclass
class Choice:
    """Checks under trial: (step, share looked at) each."""

    places: tuple[tuple[int, float], ...]
    saved: float


class Search:
    """Finds the checks of one level that save most at the limit, by two-fold prediction on the fitting set."""

    def __init__(self, fit: Traces, prior: np.ndarray, limit: float, rows_per_step: float, look_cost: float):
        self.fit, self.prior, self.limit, self.rows, self.cost = fit, prior, limit, rows_per_step, look_cost
        self.given = fit.source, prior, fit.threshold
        self.folds = _halves(fit.group)
        self._odds: dict[tuple[int, ...], np.ndarray] = {}

    def best(self) -> LevelRule:
        steps = self.fit.checks
        beam = self._ranked([((step, gate),) for step in steps for gate in GATES])
        best = beam[0]
        for _ in range(MOST_CHECKS - 1):
            longer = [
                (*choice.places, (step, gate))
                for choice in beam
                for step in steps
                for gate in GATES
                if step > choice.places[-1][0] + 1 and gate <= choice.places[-1][1]
            ]
            if not longer:
                break
            beam = self._ranked(longer)
            best = max(best, beam[0], key=lambda choice: choice.saved)
        return self._fitted(best.places)

    def _ranked(self, places: list[tuple[tuple[int, float], ...]]) -> list[Choice]:
        choices = [Choice(each, self._saved(each)) for each in places]
        return sorted(choices, key=lambda choice: -choice.saved)[:BEAM]

    def _saved(self, places: tuple[tuple[int, float], ...]) -> float:
        """Share of the network rows per accepted image that these checks would save around the limit."""
        steps = tuple(step for step, _ in places)
        odds = [self._predicted(steps[:number]) for number in range(len(places) + 1)]
        looking = np.ones(len(self.fit), bool)
        looked, values = [], []
        for number, (step, share) in enumerate(places):
            looking = looking & (odds[number] <= np.quantile(odds[number], share))
            looked.append(looking)
            value = -np.logaddexp(0.0, -odds[number + 1]) - math.log(1 - step / self.fit.steps)
            values.append(np.where(looking, value, np.inf))
        looked, values = np.stack(looked, 1), np.stack(values, 1)
        accepted, full = self.fit.accepted, self.fit.steps * self.rows
        lowest = np.sort(values.min(1)[accepted])
        saved = []
        for limit in self.limit * np.array(AROUND):
            bound = lowest[min(int(limit * len(lowest)), len(lowest) - 1)]
            spent, rejected = cost(looked, values < bound, steps, self.fit.steps, self.rows, self.cost)
            saved.append(saving(spent, rejected, accepted, full))
        return float(np.mean(saved))

    def _predicted(self, steps: tuple[int, ...]) -> np.ndarray:
        """Log-odds [n] after looks at `steps`, each half predicted by what was fitted to the other."""
        if steps not in self._odds:
            columns, curved = self._columns(steps)
            odds = np.empty(len(self.fit))
            for half, other in (self.folds, self.folds[::-1]):
                odds[half] = Logistic.fit(columns[other], curved, self.fit.accepted[other])(columns[half])
            self._odds[steps] = odds
        return self._odds[steps]

    def _columns(self, steps: tuple[int, ...]) -> tuple[np.ndarray, int]:
        return evidence(self.fit.at(steps), *self.given) if steps else expectation(*self.given)

    def _fitted(self, places: tuple[tuple[int, float], ...]) -> LevelRule:
        """The checks with predictors fitted to the whole set; the bound is yet to come."""
        steps = tuple(step for step, _ in places)
        models = []
        for number in range(len(places) + 1):
            columns, curved = self._columns(steps[:number])
            models.append((Logistic.fit(columns, curved, self.fit.accepted), columns))
        gates = [
            math.inf if share == 1 else float(np.quantile(model(columns), share))
            for (_, share), (model, columns) in zip(places, models[:-1], strict=True)
        ]
        checks = tuple(map(Check, steps, gates, (model for model, _ in models[1:])))
        return LevelRule(self.fit.level, self.fit.steps, models[0][0], checks, None, {})


def cost(
    looked: np.ndarray, below: np.ndarray, checks: Sequence[int], steps: int, rows_per_step: float, look_cost: float
) -> tuple[np.ndarray, np.ndarray]:
    """Network rows spent [n] and who is rejected [n], for who is looked at and who is below the bound [n, checks]."""
    rejected = below.any(1)
    first = np.where(rejected, below.argmax(1), below.shape[1])
    judged = looked & (np.arange(below.shape[1]) <= first[:, None])
    ends = np.append(checks, steps)[first]
    return ends * rows_per_step + judged.sum(1) * look_cost, rejected


def saving(spent: np.ndarray, rejected: np.ndarray, accepted: np.ndarray, full: float) -> float:
    """1 - (rows per accepted image with rejection) / (without); `full` rows are spent on a whole trajectory."""
    kept = (accepted & ~rejected).sum()
    return float(1 - (spent.sum() / kept) / (full * len(spent) / accepted.sum())) if kept else -math.inf


def _halves(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the rows that share no group: every other group by name."""
    names, codes = np.unique(group, return_inverse=True)
    codes = codes if len(names) > 1 else np.arange(len(group))
    return np.flatnonzero(codes % 2 == 0), np.flatnonzero(codes % 2 == 1)
