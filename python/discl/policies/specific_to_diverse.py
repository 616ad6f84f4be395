"""Descending levels in equal blocks (paper 3.2)."""

from discl.policies.stage import Stage


def specific_to_diverse(stage: Stage) -> tuple[int, ...]:
    return (stage.levels[::-1][stage.block],)
