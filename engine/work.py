"""Request -> work: everything that its steps need, and the bucket whose static shape it runs in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from discl.engine.condition import Condition
from discl.engine.networks import Networks
from discl.engine.noise import Noise
from discl.engine.noise_schedule import Trajectory
from discl.engine.request import Request
from discl.engine.solvers import Solver
from discl.engine.sources import Picture, Source
from discl.engine.stats import Stats
from discl.engine.transfer import upload


class Bucket(NamedTuple):
    """What makes a static shape: pixels, whether rows come in pairs (text guidance), and the dtype of the networks."""

    height: int
    width: int
    guided: bool
    dtype: torch.dtype


@dataclass(eq=False)
class Work:
    """A request that is ready to start. rows: network rows of each of its steps, 1 or 2.

    text: what its image is scored against. checks: steps done after which it may be judged. trace: (steps done,
    features [F]) of each preview so far. rejected_at, reason: steps done at the first verdict against it, and why.
    """

    request: Request
    source: Source
    trajectory: Trajectory
    cond: Condition
    uncond: Condition | None
    guidance: float
    rows: list[int]
    text: str = ""
    checks: tuple[int, ...] = ()
    trace: list[tuple[int, np.ndarray]] = field(default_factory=list)
    rejected_at: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Preparation:
    """How requests become works.

    text_guidance: for requests without their own. guidance_interval: (low, high) in shares of the training timesteps,
    outside of which a step runs without text guidance; None for everywhere. checks: of early rejection, by level and
    executed steps. judged: the text that a request's image is scored against.
    """

    networks: Callable[[torch.dtype], Networks]
    solver: Solver
    stats: Stats
    device: torch.device
    text_guidance: float
    guidance_interval: tuple[float, float] | None
    train_timesteps: int
    checks: Callable[[int, int], tuple[int, ...]]
    judged: Callable[[Request], str]

    def __call__(self, request: Request, picture: Picture, dtype: torch.dtype) -> tuple[Work, Bucket]:
        """Encode source and texts (each once). Raises DisclError where the level executes no step."""
        networks = self.networks(dtype)
        guidance = self.text_guidance if request.text_guidance is None else request.text_guidance
        guided = networks.model.guided(guidance)
        trajectory = self.solver.trajectory(request.level)
        size = picture.height, picture.width
        with self.stats.timed("encode"):
            source = networks.sources.encode(picture)
        with self.stats.timed("text"):
            cond = networks.condition(request.prompt, *size, guidance, negative=False)
            uncond = networks.condition(request.negative_prompt, *size, guidance, negative=True) if guided else None
        rows = trajectory.network_rows(guided, self.guidance_interval, self.train_timesteps)
        checks = self.checks(request.level, trajectory.steps)
        text = self.judged(request)
        work = Work(request, source, trajectory, cond, uncond, guidance, rows, text, checks)
        return work, Bucket(*size, guided, dtype)

    def start(self, work: Work, bucket: Bucket) -> tuple[torch.Tensor, Noise]:
        """The noised start latent [1, C, h, w] and the generator that drew it and goes on drawing.

        As diffusers' pipelines: posterior sample, then noise; from pure noise there is no posterior to sample.
        """
        networks = self.networks(bucket.dtype)
        noise = Noise(work.request.noise_seed, networks.latent_shape(bucket.height, bucket.width))
        if work.source.moments is None:
            return work.trajectory.sigma * upload(noise.draw(), self.device), noise
        draws = upload(torch.cat([noise.draw(), noise.draw()]), self.device)
        clean = networks.autoencoder.clean_latent(work.source.moments, draws[:1])
        return work.trajectory.signal * clean + work.trajectory.sigma * draws[1:], noise
