"""The level whose true-class probability gained most in the last probe (paper 3.3)."""

from discl.policies.stage import Stage


def adaptive(stage: Stage) -> tuple[int, ...]:
    """The lowest level wins a tie, and stands in until the first probe. Level 100 means real images only."""
    if not stage.progress:
        return stage.levels[:1]
    best = max(sorted(stage.progress), key=lambda level: stage.progress[level])
    return () if best == 100 else (best,)
