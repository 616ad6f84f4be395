"""Diffusers scheduler config + steps -> the tables that a solver needs: pure arithmetic, no step counter.

The schedule's numbers (timesteps, alphas, sigmas) come from diffusers' own scheduler classes, so every spacing, offset
and sigma rule that a model's config names is theirs. Their `step` is never called: it keeps one global step index.
"""

from dataclasses import dataclass

import numpy as np

from discl.errors import DisclError


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """One solver's tables over all `steps` grid points, noisiest first.

    timesteps [steps] f32: what the network is told. input_scale [steps]: factor on the network's input.
    signal, sigma [steps]: a request that starts at i starts from signal[i]*latent + sigma[i]*noise (paper 1.2).
    coefficients [steps, 10]: the columns of `discl.kernels.guided_step`.
    """

    timesteps: np.ndarray
    input_scale: np.ndarray
    signal: np.ndarray
    sigma: np.ndarray
    coefficients: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def executed_steps(steps: int, level: int) -> int:
    """UNet steps of one request: steps*(100-level)//100 in integers (floats lose a step: 1-0.9 is not 0.1).

    Raises DisclError when nothing would be executed, naming the smallest `steps` that executes one.
    """
    executed = steps * (100 - level) // 100
    if executed < 1:
        smallest = -(-100 // (100 - level))
        raise DisclError(
            f"steps={steps} at level {level} executes no step and would return the source: "
            f"use at least steps={smallest}, or a lower level"
        )
    return executed
