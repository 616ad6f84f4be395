"""A spectrum in, what one image of each level costs out: solver steps and network evaluations."""

from collections.abc import Mapping
from typing import NamedTuple

from discl.config import SpectrumConfig
from discl.engine.noise_schedule import executed_steps
from discl.errors import ConfigError, DisclError


class LevelWork(NamedTuple):
    """Of one image. evaluations: network rows, of which a step with text guidance takes two."""

    steps: int
    evaluations: int


def level_work(spectrum: SpectrumConfig) -> Mapping[int, LevelWork]:
    """By level, for any model. ConfigError for a level that would run no step."""
    rows = 1 if spectrum.text_guidance == 1 else 2
    try:
        steps = {level: executed_steps(spectrum.steps, level) for level in spectrum.levels}
    except DisclError as error:
        raise ConfigError(f"[spectrum] {error}") from None
    return {level: LevelWork(count, rows * count) for level, count in steps.items()}
