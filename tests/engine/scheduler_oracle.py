"""diffusers' own schedulers, stepped one by one over a toy denoiser: the judge of every solver, without a UNet."""

import inspect
from collections.abc import Callable

import numpy as np
import torch

from discl.engine.noise_schedule import Trajectory
from discl.kernels import guided_step

SHAPE = (1, 2, 3, 3)
Toy = Callable[[torch.Tensor, float], torch.Tensor]


def toy_network(scheduler) -> Toy:
    """(x, timestep) -> output: a nonlinear guess of x0, told in what the scheduler's config says is predicted."""
    logit = torch.logit(scheduler.alphas_cumprod.double().clamp(1e-9, 1 - 1e-9)).numpy()
    kind, continuous = scheduler.config.prediction_type, scheduler.config.get("timestep_type") == "continuous"

    def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
        at = -8 * timestep if continuous else np.interp(timestep, np.arange(len(logit)), logit)
        alpha = torch.tensor(at, dtype=torch.float64).sigmoid()
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        clean = 0.9 * torch.tanh(1.3 * x.double()) + 0.1 * np.sin(timestep / 50)
        eps = (x - signal * clean) / sigma
        out = {"epsilon": eps, "sample": clean, "v_prediction": signal * eps - sigma * clean}[kind]
        return out.to(x.dtype)

    return network


def theirs(scheduler, network: Toy, steps: int, executed: int, seed: int, **options) -> torch.Tensor:
    """The loop of diffusers' img2img pipelines from the (steps - executed)-th timestep on."""
    rng, clean = torch.Generator().manual_seed(seed), clean_latent()
    scheduler.set_timesteps(steps, **options)
    first = steps - executed
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    torch.randn(SHAPE, generator=rng)  # the posterior sample
    x = scheduler.add_noise(clean, torch.randn(SHAPE, generator=rng), timesteps[:1])
    return _denoise(scheduler, network, x, timesteps, rng)


def theirs_from_noise(scheduler, network: Toy, steps: int, seed: int) -> torch.Tensor:
    """The loop of diffusers' text-to-image pipelines."""
    rng = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    x = torch.randn(SHAPE, generator=rng) * scheduler.init_noise_sigma
    return _denoise(scheduler, network, x, scheduler.timesteps, rng)


def _denoise(scheduler, network: Toy, x: torch.Tensor, timesteps: torch.Tensor, rng) -> torch.Tensor:
    noisy = {"generator": rng} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in timesteps:
        out = network(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(out, t, x, **noisy, return_dict=False)[0]
    return x


def ours(trajectory: Trajectory, network: Toy, seed: int, source: bool = True) -> torch.Tensor:
    """A trajectory walked as the engine does, one row through `guided_step`; without a source from noise alone."""
    rng = torch.Generator().manual_seed(seed)
    if source:
        torch.randn(SHAPE, generator=rng)
    x = trajectory.signal * clean_latent() + trajectory.sigma * torch.randn(SHAPE, generator=rng)
    history = torch.zeros(SHAPE)
    for row, draw in zip(torch.from_numpy(trajectory.rows), trajectory.draws, strict=True):
        noise = torch.randn(SHAPE, generator=rng) if draw else torch.zeros(SHAPE)
        out = network(x * row[1], float(row[0]))
        x, history = guided_step(x, out, None, torch.ones(1), row[None, 2:], history, noise)
    return x


def clean_latent() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
