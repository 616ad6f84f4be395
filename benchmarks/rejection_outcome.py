"""What a rule for early rejection does to traces that it has not seen, beside running everything and foresight."""

import numpy as np

from benchmarks.replay import TRACE
from discl.engine.rejection import Rule
from discl.engine.rejection.search import cost, saving
from discl.engine.rejection.traces import Traces


class Outcome:
    """What a rule does to traces that it has not seen, one entry a level."""

    def __init__(self, rule: Rule, traces: list[Traces], look_rows: float):
        self.traces, self.rows = traces, 2 * np.array([each.steps for each in traces])
        self.spent, self.rejected, self.looks = zip(
            *(self._level(rule, each, look_rows) for each in traces), strict=True
        )

    def _level(self, rule: Rule, traces: Traces, look_rows: float):
        """Rows spent [n], whether rejected [n], and the shares of the steps at which each is looked at [n, checks]."""
        level, full = rule.levels[traces.level], 2.0 * traces.steps
        if level.bound is None:
            return np.full(len(traces), full), np.zeros(len(traces), bool), np.empty((len(traces), 0))
        decided = rule.decide(traces)
        below, checks = decided.value < level.bound, [check.step for check in level.checks]
        spent, rejected = cost(decided.looked, below, checks, traces.steps, 2.0, look_rows)
        going = np.cumsum(below, 1) - below == 0  # up to the verdict
        return spent, rejected, np.where(decided.looked & going, np.array(checks) / traces.steps, np.nan)

    def accepted_per_row(self) -> float:
        kept = sum((each.accepted & ~gone).sum() for each, gone in zip(self.traces, self.rejected, strict=True))
        return kept / sum(spent.sum() for spent in self.spent)

    def false_rejects(self) -> float:
        """Share of the accepted that are rejected, pooled over levels."""
        wrong = sum((each.accepted & gone).sum() for each, gone in zip(self.traces, self.rejected, strict=True))
        return float(wrong / sum(each.accepted.sum() for each in self.traces))

    def false_by_level(self) -> list[float]:
        parts = zip(self.traces, self.rejected, strict=True)
        return [float((each.accepted & gone).sum() / each.accepted.sum()) for each, gone in parts]

    def saved(self) -> list[float]:
        """Share of the rows per accepted image that are saved, by level."""
        parts = zip(self.spent, self.rejected, self.traces, self.rows, strict=True)
        return [saving(spent, gone, each.accepted, float(rows)) for spent, gone, each, rows in parts]

    def by_class(self) -> dict[str, float]:
        """False rejects by text, pooled over levels."""
        texts = np.concatenate([each.text for each in self.traces])
        good, gone = (np.concatenate(part) for part in ([each.accepted for each in self.traces], self.rejected))
        return {str(text): round(float(gone[good & (texts == text)].mean()), 3) for text in np.unique(texts[good])}


def oracle(traces: list[Traces], look_rows: float) -> list[tuple[float, float]]:
    """Perfect foresight at the n-th candidate check of every level: (mean share of the steps done, rows saved)."""
    points = []
    for number in range(min(len(each.checks) for each in traces)):
        spent = kept = full = 0.0
        for each in traces:
            rows = np.where(each.accepted, each.steps, each.checks[number]) * 2.0 + look_rows
            spent, kept, full = spent + rows.sum(), kept + each.accepted.sum(), full + 2.0 * each.steps * len(each)
        done = float(np.mean([each.checks[number] / each.steps for each in traces]))
        points.append((done, 1 - spent / full))
    return points


def accepted_without(traces: list[Traces]) -> float:
    """Accepted images per network row when everything runs to its end."""
    return sum(each.accepted.sum() for each in traces) / sum(2.0 * each.steps * len(each) for each in traces)


def keep_replay(outcome: Outcome) -> None:
    """What `benchmarks.replay` plays, a row a sample: level, whether its image would be accepted, whether it is given
    up, and the shares of its steps at which it is looked at, the last one the verdict's; NaN fills up."""
    most = max(looks.shape[1] for looks in outcome.looks)
    filled = [np.pad(looks, ((0, 0), (0, most - looks.shape[1])), constant_values=np.nan) for looks in outcome.looks]
    columns = {
        "level": np.concatenate([np.full(len(each), each.level, np.int16) for each in outcome.traces]),
        "accepted": np.concatenate([each.accepted for each in outcome.traces]),
        "rejected": np.concatenate(outcome.rejected),
        "looks": np.concatenate(filled).astype(np.float32),
    }
    np.savez_compressed(TRACE, **columns)
