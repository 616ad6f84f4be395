"""Noise schedule -> update coefficients: one function per published solver, each row of a batch at its own step.

Every solver is a row of the same ten numbers (see `discl.kernels.guided_step`), so the engine's step knows no solver.
Arithmetic is float64 on the float32 numbers of diffusers' schedulers.
"""

import logging
from collections.abc import Callable

import numpy as np
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from discl.engine.noise_schedule import NoiseSchedule
from discl.errors import ModelError

log = logging.getLogger(__name__)


def ddim(config: dict, steps: int) -> NoiseSchedule:
    """DDIM with eta 0 (Song et al. 2020, equation 12)."""
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    if scheduler.config.thresholding:
        raise ModelError(
            "the model's scheduler asks for dynamic thresholding, which no latent model needs: set it to false"
        )
    timesteps = scheduler.timesteps.numpy()
    alphas = scheduler.alphas_cumprod.numpy().astype(np.float64)
    before = timesteps - scheduler.config.num_train_timesteps // steps
    alpha = alphas[timesteps]
    alpha_next = np.where(before >= 0, alphas[before], float(scheduler.final_alpha_cumprod))
    signal, sigma = np.sqrt(alpha), np.sqrt(1 - alpha)
    clip = scheduler.config.clip_sample_range if scheduler.config.clip_sample else np.inf
    coefficients = _columns(
        *_prediction(scheduler.config.prediction_type, signal, sigma),
        x=0.0, x0=np.sqrt(alpha_next), eps=np.sqrt(1 - alpha_next), clip=clip,
    )  # fmt: skip
    return NoiseSchedule(timesteps.astype(np.float32), np.ones(steps), signal, sigma, coefficients)


def euler(config: dict, steps: int) -> NoiseSchedule:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 2 without churn)."""
    scheduler = EulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.numpy().astype(np.float64)
    sigma, sigma_next = sigmas[:-1], sigmas[1:]
    scale = 1 / np.sqrt(sigma**2 + 1)
    # x here is the unscaled sigma-space latent; the network sees scale*x, whose signal part is `scale`.
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        x0_x, x0_out = scale**2, -sigma * scale
        eps_x, eps_out = (1 - x0_x) / sigma, -x0_out / sigma
    else:
        x0_x, x0_out, eps_x, eps_out = _prediction(kind, np.ones(steps), sigma)
    coefficients = _columns(x0_x, x0_out, eps_x, eps_out, x=0.0, x0=1.0, eps=sigma_next, clip=np.inf)
    return NoiseSchedule(scheduler.timesteps.numpy(), scale, np.ones(steps), sigma, coefficients)


SOLVERS: dict[str, Callable[[dict, int], NoiseSchedule]] = {"ddim": ddim, "euler": euler}
NATIVE = {"DDIMScheduler": "ddim", "EulerDiscreteScheduler": "euler"}
# Which of ours walks the same kind of grid as a pipeline's own scheduler that has no twin here.
NEAREST = {
    "EulerAncestralDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "euler",
    "LMSDiscreteScheduler": "euler",
}


def choose_solver(name: str, scheduler_class: str) -> str:
    """`auto` takes the pipeline's own solver, or the nearest with a message; ModelError for an unknown name."""
    if name != "auto":
        if name not in SOLVERS:
            raise ModelError(f"solver={name!r} is not known: choose one of auto, {', '.join(SOLVERS)}")
        return name
    if scheduler_class in NATIVE:
        return NATIVE[scheduler_class]
    nearest = NEAREST.get(scheduler_class, "ddim")
    log.warning("the model's own %s is not available; using the nearest solver, %s", scheduler_class, nearest)
    return nearest


def _prediction(kind: str, signal: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, ...]:
    """Coefficients of (x, network output) in x0, then in eps, for x = signal*x0 + sigma*eps."""
    zero, one = np.zeros_like(sigma), np.ones_like(sigma)
    if kind == "epsilon":
        return one / signal, -sigma / signal, zero, one
    if kind == "v_prediction":
        return signal, -sigma, sigma, signal
    if kind == "sample":
        return zero, one, one / sigma, -signal / sigma
    raise ModelError(f"the model predicts {kind!r}: epsilon, v_prediction and sample are supported")


def _columns(x0_x, x0_out, eps_x, eps_out, *, x, x0, eps, clip) -> np.ndarray:
    """The ten columns of `guided_step` as float32 [steps, 10]; history and fresh noise take no part here."""
    columns = np.broadcast_arrays(x0_x, x0_out, eps_x, eps_out, x, x0, eps, 0.0, 0.0, clip)
    return np.stack(columns, axis=1).astype(np.float32)
