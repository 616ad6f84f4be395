"""What the network predicts -> x0 and eps as linear combinations of its input x and its output, one per step."""

import numpy as np

from discl.errors import ModelError

Combination = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x and out in x0, then x and out in eps
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def check_prediction(kind: str) -> None:
    if kind not in PREDICTIONS:
        raise ModelError(f"the model predicts {kind!r}: {', '.join(PREDICTIONS)} are supported")


def variance_preserving(kind: str, signal: np.ndarray, sigma: np.ndarray) -> Combination:
    """For x = signal*x0 + sigma*eps with signal^2 + sigma^2 = 1 (v: Salimans and Ho 2022, appendix D)."""
    zero, one = np.zeros_like(sigma), np.ones_like(sigma)
    if kind == "epsilon":
        return one / signal, -sigma / signal, zero, one
    if kind == "v_prediction":
        return signal, -sigma, sigma, signal
    return zero, one, one / sigma, -signal / sigma  # sample


def variance_exploding(kind: str, sigma: np.ndarray) -> Combination:
    """For x = x0 + sigma*eps, where the network is given x/sqrt(sigma^2 + 1) (Karras et al. 2022)."""
    if kind != "v_prediction":
        return variance_preserving(kind, np.ones_like(sigma), sigma)
    scale = 1 / np.sqrt(sigma**2 + 1)
    return scale**2, -sigma * scale, sigma * scale**2, scale


def table(timesteps, input_scale, combination: Combination, *, x=0.0, x0=0.0, eps=0.0, history=0.0, noise=0.0,
          clip=np.inf) -> np.ndarray:  # fmt: skip
    """The rows of a Trajectory, float32 [K, 12]; the keywords scale what `guided_step` adds up, [K] or one number."""
    columns = (timesteps, input_scale, *combination, x, x0, eps, history, noise, clip)
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float32)
