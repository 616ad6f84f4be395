"""Every level in every epoch (paper 3.2)."""

from discl.policies.stage import Stage


def all_level(stage: Stage) -> tuple[int, ...]:
    return stage.levels
