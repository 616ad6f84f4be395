"""What one request walks: its start and the numbers of every step. Pure arithmetic, no step counter.

The schedule's numbers (timesteps, alphas, sigmas) come from diffusers' own scheduler classes, so every spacing, offset
and sigma rule that a model's config names is theirs. Their `step` is never called: it keeps one global step index.
"""

from dataclasses import dataclass

import numpy as np

from discl.errors import DisclError


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The K steps of one level, noisiest first.

    rows    [K, 12] float32  timestep, factor on the network's input, then the ten columns of `guided_step`
    signal, sigma            the start is signal * clean latent + sigma * noise (paper 1.2)
    draws   [K] bool         whether a step draws normal noise from the request's generator (column 8 scales it)

    The generator draws the posterior sample (not in mode pure-noise), the start's noise, then the steps' in order.
    """

    rows: np.ndarray
    signal: float
    sigma: float
    draws: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.rows)

    def network_rows(self, guided: bool, interval: tuple[float, float] | None, train_timesteps: int) -> list[int]:
        """How many network rows each step takes: two with text guidance, which holds where low <= t/T < high."""
        if not guided:
            return [1] * self.steps
        low, high = interval or (0.0, 1.0)
        share = self.rows[:, 0] / train_timesteps
        return [1 if interval and not low <= t < high else 2 for t in share]


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
