"""One level in every epoch: curriculum.level (paper 3.2)."""

from discl.errors import ConfigError
from discl.policies.stage import Stage


def fixed(stage: Stage) -> tuple[int, ...]:
    if stage.level not in stage.levels:
        raise ConfigError(f"curriculum.level = {stage.level} is not among the spectrum's levels, {list(stage.levels)}")
    return (stage.level,)
