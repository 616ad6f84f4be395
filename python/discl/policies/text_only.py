"""Level 0 in every epoch: the text decides, apart from what the start noise leaks (paper 3.2)."""

from discl.errors import ConfigError
from discl.policies.stage import Stage


def text_only(stage: Stage) -> tuple[int, ...]:
    if 0 not in stage.levels:
        raise ConfigError("curriculum.policy = 'text-only' needs level 0 in spectrum.levels")
    return (0,)
