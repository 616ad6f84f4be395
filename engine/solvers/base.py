"""What all solvers share: which schedule a level walks in each mode, and what is refused."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch

from discl.engine.noise_schedule import Trajectory, executed_steps
from discl.errors import DisclError, ModelError

MODES = ("exact",)


class Solver(ABC):
    """A published solver over one model's schedule: `trajectory(level)` has every number of a request's steps.

    Arithmetic is float64 on the float32 numbers of diffusers' schedulers. Raises ModelError for a scheduler config that
    asks for what the solver does not do.
    """

    name: ClassVar[str]
    scheduler_class: ClassVar[type]  # diffusers' class whose schedule it walks
    supported: ClassVar[dict[str, tuple]] = {}  # scheduler option -> values that are not refused
    uses_history: ClassVar[bool] = False  # whether the last step's x0 is `guided_step`'s history (column 7)
    draws_noise: ClassVar[bool] = False  # whether any step draws

    def __init__(self, scheduler_config: dict, steps: int, mode: str = "exact"):
        self.steps, self.mode = steps, mode
        self._model = self.scheduler_class.from_config(scheduler_config)
        for option, values in self.supported.items():
            given = self._model.config.get(option)
            if given not in values:
                raise ModelError(
                    f"the model's scheduler has {option}={given!r}, which solver {self.name} does not do: "
                    f"set it to {' or '.join(map(repr, values))} or choose another solver"
                )
        self._schedule = open_schedule(self._model, steps)
        self._trajectories: dict[int, Trajectory] = {}

    def trajectory(self, level: int) -> Trajectory:
        """The steps of a level, 0..99. Raises DisclError where nothing would be executed or a number is not finite."""
        if level not in self._trajectories:
            self._trajectories[level] = self._make(level)
        return self._trajectories[level]

    @abstractmethod
    def walk(self, scheduler: Any, start: int) -> Trajectory:
        """From grid index `start` to the end of a scheduler whose timesteps are set."""

    def _make(self, level: int) -> Trajectory:
        start = self.steps - executed_steps(self.steps, level)
        with np.errstate(divide="ignore", invalid="ignore"):
            trajectory = self.walk(self._schedule, start)
        broken = ~np.isfinite(trajectory.rows[:, :-1]).all(axis=1)
        if broken.any():
            raise DisclError(
                f"solver {self.name} with steps={self.steps} at level {level} divides by zero at timestep "
                f"{trajectory.rows[broken.argmax(), 0]:g}: the schedule has no signal or no noise there, or repeats a "
                "noise level; use fewer steps, a higher level or another solver"
            )
        return trajectory


def open_schedule(scheduler: Any, steps: int) -> Any:
    """Set `steps` timesteps. Raises DisclError where the scheduler cannot."""
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise DisclError(f"steps={steps} does not fit the model's schedule: {error}") from error
    if len(scheduler.timesteps) > steps:
        # Trailing spacing counts down in floats, which for some counts (61 of 1000) adds a step at timestep -1.
        scheduler.timesteps = scheduler.timesteps[:steps]
        if hasattr(scheduler, "sigmas"):
            scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
    return scheduler
