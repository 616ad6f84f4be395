"""DDIM with eta 0 (Song et al. 2020, equation 12)."""

from types import MappingProxyType

import numpy as np
from diffusers import DDIMScheduler

from discl.engine.noise_schedule import Trajectory
from discl.engine.solvers.base import Solver
from discl.engine.solvers.prediction import table, variance_preserving
from discl.errors import DisclError


class Ddim(Solver):
    name = "ddim"
    scheduler_class = DDIMScheduler
    supported = MappingProxyType({"thresholding": (False,)})

    def walk(self, scheduler: DDIMScheduler, start: int) -> Trajectory:
        config = scheduler.config
        timesteps = scheduler.timesteps.numpy()[start:]
        if timesteps[0] >= config.num_train_timesteps:
            raise DisclError(
                f"steps={scheduler.num_inference_steps} with steps_offset={config.steps_offset} begins at timestep "
                f"{timesteps[0]}, and the model knows 0 to {config.num_train_timesteps - 1}: use fewer steps"
            )
        # The target is a stride below, which is not always the grid's next timestep: so does diffusers.
        before = timesteps - config.num_train_timesteps // scheduler.num_inference_steps
        alphas = scheduler.alphas_cumprod.numpy().astype(np.float64)
        alpha = alphas[timesteps]
        alpha_next = np.where(before >= 0, alphas[before], float(scheduler.final_alpha_cumprod))
        signal, sigma = np.sqrt(alpha), np.sqrt(1 - alpha)
        rows = table(
            timesteps,
            1.0,
            variance_preserving(config.prediction_type, signal, sigma),
            x0=np.sqrt(alpha_next),
            eps=np.sqrt(1 - alpha_next),
            clip=config.clip_sample_range if config.clip_sample else np.inf,
        )
        return Trajectory(rows, float(signal[0]), float(sigma[0]), np.zeros(len(rows), bool))
