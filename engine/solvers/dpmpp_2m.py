"""DPM-Solver++(2M), the second-order multistep solver in data prediction (Lu et al. 2022b, algorithm 2)."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from diffusers import DPMSolverMultistepScheduler

from discl.engine.noise_schedule import Trajectory
from discl.engine.solvers.base import Solver
from discl.engine.solvers.prediction import table, variance_preserving

# What DDPM's configs say of a network that predicts no variance; the ODE has no use for it.
FIXED_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
# The algorithm_type of DEIS's and SA-Solver's configs, which this class would refuse: their schedule is meant.
RELATED = ("deis", "data_prediction", "noise_prediction")
FEW = 15  # below this many steps on the whole grid, `lower_order_final` makes the last one first-order


class DpmSolverPlusPlus2M(Solver):
    name = "dpmpp-2m"
    scheduler_class = DPMSolverMultistepScheduler
    supported = MappingProxyType(
        {
            "algorithm_type": ("dpmsolver++",),
            "solver_order": (2,),
            "solver_type": ("midpoint",),
            "thresholding": (False,),
            "variance_type": (None, *FIXED_VARIANCES),
            "use_flow_sigmas": (False,),
        }
    )
    uses_history = True

    def __init__(self, scheduler_config: Mapping, steps: int, mode: str = "exact"):
        if scheduler_config.get("algorithm_type") in RELATED:
            scheduler_config = {**scheduler_config, "algorithm_type": "dpmsolver++"}
        super().__init__(scheduler_config, steps, mode)

    def walk(self, scheduler: DPMSolverMultistepScheduler, start: int) -> Trajectory:
        timesteps = scheduler.timesteps.numpy()[start:]
        ratios = scheduler.sigmas.numpy().astype(np.float64)[start:]  # sigma / signal, one more than timesteps
        signals = 1 / np.sqrt(ratios**2 + 1)
        sigmas = ratios * signals
        shrink = 1 - ratios[1:] / ratios[:-1]  # 1 - exp(-h), h the step in log-SNR lambda
        stride = np.diff(-np.log(ratios))
        stride_before = np.concatenate([[np.nan], stride[:-1]])
        # x0 is extrapolated from its last value to half the stride; a request's first step has no last value.
        ahead = np.where(self._second_order(scheduler)[start:], stride / stride_before / 2, 0.0)
        ahead[0] = 0.0
        rows = table(
            timesteps,
            1.0,
            variance_preserving(scheduler.config.prediction_type, signals[:-1], sigmas[:-1]),
            x=sigmas[1:] / sigmas[:-1],
            x0=signals[1:] * shrink * (1 + ahead),
            history=-signals[1:] * shrink * ahead,
        )
        return Trajectory(rows, float(signals[0]), float(sigmas[0]), np.zeros(len(rows), bool))

    @staticmethod
    def _second_order(scheduler: DPMSolverMultistepScheduler) -> np.ndarray:
        """Which steps of the grid use history, bool [steps]: all but perhaps the last."""
        config, steps = scheduler.config, len(scheduler.timesteps)
        second = np.ones(steps, bool)
        second[-1] = not (
            config.euler_at_final
            or (config.lower_order_final and steps < FEW)
            or config.final_sigmas_type == "zero"  # an infinite stride
        )
        return second
