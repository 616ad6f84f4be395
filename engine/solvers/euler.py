"""Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 2 without churn)."""

import numpy as np
from diffusers import EulerDiscreteScheduler

from discl.engine.noise_schedule import Trajectory
from discl.engine.solvers.base import Solver
from discl.engine.solvers.prediction import table, variance_exploding


class Euler(Solver):
    name = "euler"
    scheduler_class = EulerDiscreteScheduler

    def walk(self, scheduler: EulerDiscreteScheduler, start: int) -> Trajectory:
        timesteps = scheduler.timesteps.numpy()[start:]
        sigmas = scheduler.sigmas.numpy().astype(np.float64)[start:]
        sigma, sigma_next = sigmas[: len(timesteps)], sigmas[1 : len(timesteps) + 1]
        rows = table(
            timesteps,
            1 / np.sqrt(sigma**2 + 1),
            variance_exploding(scheduler.config.prediction_type, sigma),
            x0=1.0,
            eps=sigma_next,
        )
        return Trajectory(rows, 1.0, float(sigma[0]), np.zeros(len(rows), bool))
