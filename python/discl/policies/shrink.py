"""All levels first; each block drops the lowest that is left (paper 3.2)."""

from discl.policies.stage import Stage


def shrink(stage: Stage) -> tuple[int, ...]:
    return stage.levels[stage.block :]
