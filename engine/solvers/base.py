"""What all solvers share: which schedule a level walks in each mode, and what is refused."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from discl.engine.noise_schedule import Trajectory, executed_steps
from discl.engine.solvers.prediction import check_prediction
from discl.engine.solvers.schedule import load_scheduler, set_steps, shorten
from discl.errors import DisclError, ModelError

MODES = ("exact", "few-step", "pure-noise")


class Solver(ABC):
    """A published solver over one model's schedule: `trajectory(level)` has every number of a request's steps.

    exact       the last steps*(100-level)//100 steps of the schedule, as diffusers' img2img pipelines run them
    few-step    all `steps` steps on the noise below the level's start (see `schedule.shorten`)
    pure-noise  the whole schedule from noise alone, as diffusers' text-to-image pipelines run it; level 0 only

    Arithmetic is float64 on the float32 numbers of diffusers' schedulers. Raises ModelError for a scheduler config that
    asks for what the solver does not do, DisclError for `steps` that the schedule cannot hold.
    """

    name: ClassVar[str]
    scheduler_class: ClassVar[type]  # diffusers' class whose schedule it walks
    supported: ClassVar[Mapping[str, tuple]] = MappingProxyType({})  # scheduler option -> values that are not refused
    uses_history: ClassVar[bool] = False  # whether the last step's x0 is `guided_step`'s history (column 7)
    draws_noise: ClassVar[bool] = False  # whether any step draws

    def __init__(self, scheduler_config: Mapping, steps: int, mode: str = "exact"):
        if mode not in MODES:
            raise DisclError(f"mode={mode!r} is not known: choose one of {', '.join(MODES)}")
        self.steps, self.mode = steps, mode
        self.scheduler = load_scheduler(self.scheduler_class, scheduler_config)
        for option, values in self.supported.items():
            given = self.scheduler.config.get(option)
            if given not in values:
                raise ModelError(
                    f"the model's scheduler has {option}={given!r}, which solver {self.name} does not do: "
                    f"set it to {' or '.join(map(repr, values))} or choose another solver"
                )
        check_prediction(self.scheduler.config.get("prediction_type"))
        set_steps(self.scheduler, steps)
        self._trajectories: dict[int, Trajectory] = {}

    def trajectory(self, level: int) -> Trajectory:
        """The steps of a level, 0..99. Raises DisclError where they cannot be made, saying which `steps` can."""
        if level not in self._trajectories:
            with np.errstate(divide="ignore", invalid="ignore"):
                trajectory = self._make(level)
            self._refuse_infinite(trajectory, level)
            self._trajectories[level] = trajectory
        return self._trajectories[level]

    @abstractmethod
    def walk(self, scheduler: Any, start: int) -> Trajectory:
        """From grid index `start` to the end of a scheduler whose timesteps are set."""

    def shortened(self, level: int) -> Any:
        """A scheduler whose `steps` timesteps begin at the level's start."""
        return shorten(self.scheduler, self.steps, level)

    def _make(self, level: int) -> Trajectory:
        if self.mode == "few-step":
            return self.walk(self.shortened(level), start=0)
        if self.mode == "exact":
            return self.walk(self.scheduler, start=self.steps - executed_steps(self.steps, level))
        if level != 0:
            raise DisclError(f"level={level} in mode pure-noise, which has no source to keep: give level 0")
        return replace(self.walk(self.scheduler, 0), signal=0.0, sigma=float(self.scheduler.init_noise_sigma))

    def _refuse_infinite(self, trajectory: Trajectory, level: int) -> None:
        broken = ~np.isfinite(trajectory.rows[:, :-1]).all(axis=1)
        if broken.any():
            raise DisclError(
                f"solver {self.name} with steps={self.steps} at level {level} divides by zero at timestep "
                f"{trajectory.rows[broken.argmax(), 0]:g}: the model's schedule has no signal there or repeats a noise "
                "level; use fewer steps, a higher level or another solver"
            )
