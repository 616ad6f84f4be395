"""Ascending levels in equal blocks: far from the source first, close to it last (paper 3.2)."""

from discl.policies.stage import Stage


def diverse_to_specific(stage: Stage) -> tuple[int, ...]:
    return (stage.levels[stage.block],)
