"""Euler steps that overshoot and make up with fresh noise (Katherine Crowson's k-diffusion; DDPM-like, eta 1)."""

import numpy as np
from diffusers import EulerAncestralDiscreteScheduler

from discl.engine.noise_schedule import Trajectory
from discl.engine.solvers.base import Solver
from discl.engine.solvers.prediction import table, variance_exploding


class EulerAncestral(Solver):
    name = "euler-ancestral"
    scheduler_class = EulerAncestralDiscreteScheduler
    draws_noise = True

    def walk(self, scheduler: EulerAncestralDiscreteScheduler, start: int) -> Trajectory:
        timesteps = scheduler.timesteps.numpy()[start:]
        sigmas = scheduler.sigmas.numpy().astype(np.float64)[start:]
        sigma, sigma_next = sigmas[:-1], sigmas[1:]
        up = np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2)) / sigma
        rows = table(
            timesteps,
            1 / np.sqrt(sigma**2 + 1),
            variance_exploding(scheduler.config.prediction_type, sigma),
            x0=1.0,
            eps=np.sqrt(sigma_next**2 - up**2),
            noise=up,
        )
        return Trajectory(rows, 1.0, float(sigma[0]), sigma_next > 0)
