"""A spectrum in, what one image of each level costs out: solver steps and network evaluations."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from discl.config import SpectrumConfig
from discl.engine.noise_schedule import executed_steps
from discl.errors import ConfigError, DisclError

if TYPE_CHECKING:
    from discl.engine.pretrained.files import ModelFiles


class LevelWork(NamedTuple):
    """Of one image. evaluations: network rows, of which a step with text guidance takes two."""

    steps: int
    evaluations: int


def level_work(spectrum: SpectrumConfig, files: "ModelFiles | None" = None) -> Mapping[int, LevelWork]:
    """By level, as the model will be run. Without a model as most are: guided at every step.

    ConfigError for a level that cannot be made, with the `steps` that can.
    """
    try:
        if files is not None:
            return _of_model(spectrum, files)
        rows = 1 if spectrum.text_guidance == 1 else 2
        steps = {level: _steps(spectrum, level) for level in spectrum.levels}
    except DisclError as error:
        raise ConfigError(f"[spectrum] {error}") from None
    return {level: LevelWork(count, rows * count) for level, count in steps.items()}


def _steps(spectrum: SpectrumConfig, level: int) -> int:
    return executed_steps(spectrum.steps, level) if spectrum.mode == "exact" else spectrum.steps


def _of_model(spectrum: SpectrumConfig, files: "ModelFiles") -> dict[int, LevelWork]:
    from discl.engine.solvers import build_solver

    schedule = _read(files, "scheduler/scheduler_config.json")
    solver = build_solver(spectrum.solver, files.scheduler_class, schedule, spectrum.steps, spectrum.mode)
    guided = spectrum.text_guidance > 1 and _read(files, "unet/config.json").get("time_cond_proj_dim") is None
    of_all = schedule.get("num_train_timesteps", 1000)
    rows = {
        level: solver.trajectory(level).network_rows(guided, spectrum.guidance_interval, of_all)
        for level in spectrum.levels
    }
    return {level: LevelWork(len(steps), sum(steps)) for level, steps in rows.items()}


def _read(files: "ModelFiles", name: str) -> dict:
    """A component's configuration; empty where the file is missing or broken, which loading the model will tell."""
    try:
        settings = json.loads((files.folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
