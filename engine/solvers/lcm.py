"""Multistep consistency sampling: jump to x0, add noise again (Song et al. 2023, algorithm 1; LCM: Luo et al. 2023)."""

from types import MappingProxyType
from typing import Any

import numpy as np
from diffusers import LCMScheduler

from discl.engine.noise_schedule import Trajectory
from discl.engine.solvers.base import Solver
from discl.engine.solvers.prediction import table, variance_preserving
from discl.engine.solvers.schedule import set_steps
from discl.errors import DisclError

SIGMA_DATA = 0.5


class Lcm(Solver):
    """Its grid is drawn from the `original_inference_steps` timesteps that the model was distilled on."""

    name = "lcm"
    scheduler_class = LCMScheduler
    supported = MappingProxyType({"thresholding": (False,)})
    draws_noise = True

    def walk(self, scheduler: LCMScheduler, start: int) -> Trajectory:
        config = scheduler.config
        timesteps = scheduler.timesteps.numpy()[start:]
        alpha = scheduler.alphas_cumprod.numpy().astype(np.float64)[timesteps]
        signal, sigma = np.sqrt(alpha), np.sqrt(1 - alpha)
        signal_next, sigma_next = np.append(signal[1:], 1.0), np.append(sigma[1:], 0.0)
        # The boundary condition f(x, 0) = x: the share of x falls, the share of x0 grows with the timestep.
        scaled = timesteps * config.timestep_scaling
        skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        jump = scaled / np.sqrt(scaled**2 + SIGMA_DATA**2)
        rows = table(
            timesteps,
            1.0,
            variance_preserving(config.prediction_type, signal, sigma),
            x=signal_next * skip,
            x0=signal_next * jump,
            noise=sigma_next,
            clip=config.clip_sample_range if config.clip_sample else np.inf,
        )
        return Trajectory(rows, float(signal[0]), float(sigma[0]), np.arange(len(rows)) < len(rows) - 1)

    def shortened(self, level: int) -> Any:
        """As diffusers' LatentConsistencyModelImg2ImgPipeline: `steps` of the distilled timesteps up to the level's."""
        distilled = self.scheduler.config.original_inference_steps
        kept = distilled * (100 - level) // 100  # not executed_steps, whose error tells of steps that nobody gave
        if self.steps > kept:
            fewer = f"at most steps={kept}, or " if kept else ""
            raise DisclError(
                f"steps={self.steps} at level {level} in mode few-step: only {kept} of the {distilled} timesteps that "
                f"the model was distilled on lie below its start; use {fewer}a lower level"
            )
        short = type(self.scheduler).from_config(self.scheduler.config)
        set_steps(short, self.steps, strength=(kept + 0.5) / distilled)  # theirs floors a float
        return short
