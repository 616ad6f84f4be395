"""The batch: one static shape. Running requests have places; each step gathers network rows from some of them.

A place holds what one request needs: its latent, x0 of its last step where something reads it, its conditions, its
trajectory and its generator. A step of a request takes one network row, or two with text guidance (prompt and negative
prompt). Rows are packed anew each step: conditional rows first, in the order given, then their unconditional partners;
the rest is idle. A row's bits do not depend on where it stands, so nothing of this shows in an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from discl.engine.condition import Condition
from discl.engine.denoiser import Denoise
from discl.engine.noise import Noise
from discl.engine.noise_schedule import Trajectory
from discl.engine.transfer import upload
from discl.kernels import guided_step

COLUMNS = 12  # of Trajectory.rows; guidance follows as one more


class Rows(NamedTuple):
    """How one step's rows are packed: arrays over the R network rows, on the host.

    source: place of the latent. condition: line of the conditions. partner: the unconditional row of a conditional one
    (itself without guidance). target: place that takes the result. numbers [R, 13]: trajectory row, text guidance.
    """

    source: np.ndarray
    condition: np.ndarray
    partner: np.ndarray
    target: np.ndarray
    numbers: np.ndarray


class Slots:
    """Places of one bucket, stepped through one denoiser.

    places: how many requests it holds. rows: network rows of a step (R). width: how many requests a step advances at
    most. latent_shape: (C, h, w). steps: the longest trajectory. paired: whether any step has text guidance. history:
    whether the solver wants the last x0.
    draws: whether any step draws noise. gaps: whether to keep the guidance gap.
    """

    def __init__(
        self,
        places: int,
        rows: int,
        width: int,
        latent_shape: tuple[int, int, int],
        steps: int,
        denoise: Denoise,
        device: torch.device,
        *,
        paired: bool = False,
        history: bool = False,
        draws: bool = False,
        gaps: bool = False,
    ):
        self.places, self.rows, self.width, self.denoise, self.device = places, rows, width, denoise, device
        self.paired = paired or gaps
        self.history, self.draws = history, draws
        # Two places more: `idle` stays zero and feeds idle rows, `sink` takes what nobody wants.
        self.idle, self.sink = places, places + 1
        self.latent_shape = latent_shape
        self.x = torch.zeros(places + 2, *latent_shape, dtype=torch.float32, device=device)
        self.x0 = torch.zeros_like(self.x) if history or gaps else None
        self.gap = torch.zeros(places + 2, dtype=torch.float32, device=device) if gaps else None
        self.conditions: Condition | None = None  # allocated with the first request, which tells its shapes
        self._trajectory = np.zeros((places + 2, steps, COLUMNS), np.float32)
        self._trajectory[..., -1] = np.inf  # no clamp: an idle row stays zero
        self._draws = np.zeros((places + 2, steps), bool)
        self._index = np.zeros(places + 2, np.int64)
        self._guidance = np.ones(places + 2, np.float32)
        self._noise: list[Noise | None] = [None] * places

    def load(
        self,
        place: int,
        latent: torch.Tensor,
        noise: Noise,
        trajectory: Trajectory,
        cond: Condition,
        uncond: Condition | None,
        guidance: float,
    ) -> None:
        """Put a request into a free place. latent: its start [1, C, h, w]; noise: goes on drawing for its steps."""
        if self.conditions is None:
            self.conditions = cond.zeros(2 * self.places + 1)
        self.x[place] = latent[0]
        if self.x0 is not None:
            self.x0[place] = 0
        self.conditions.put(place, cond)
        if uncond is not None:
            self.conditions.put(self.places + 1 + place, uncond)
        self._trajectory[place, : trajectory.steps] = trajectory.rows
        self._draws[place, : trajectory.steps] = trajectory.draws
        self._index[place] = 0
        self._guidance[place] = guidance
        self._noise[place] = noise

    def step(self, active: Sequence[tuple[int, int]]) -> None:
        """One network evaluation that advances `active`: (place, network rows) of each."""
        packed = self._pack(active)
        numbers = upload(torch.from_numpy(packed.numbers), self.device)
        indices = upload(torch.from_numpy(np.stack(packed[:4])), self.device)
        source, condition, partner, target = indices.unbind()
        width = self.width

        x = self.x.index_select(0, source)
        batch = Condition(*(None if part is None else part.index_select(0, condition) for part in self.conditions))
        out = self.denoise(x * numbers[:, 1, None, None, None], numbers[:, 0].contiguous(), batch)
        uncond = out.index_select(0, partner[:width]) if self.paired else None
        next_x, x0 = guided_step(
            x[:width],
            out[:width],
            uncond,
            numbers[:width, COLUMNS],
            numbers[:width, 2:COLUMNS],
            self.x0.index_select(0, source[:width]) if self.history else None,
            self._drawn(active),
        )
        self.x.index_copy_(0, target[:width], next_x)
        if self.x0 is not None:
            self.x0.index_copy_(0, target[:width], x0)
        if self.gap is not None:
            gap = (out[:width].float() - uncond.float()).square().flatten(1).sum(1)
            self.gap.index_copy_(0, target[:width], gap)
        self._index[[place for place, _ in active]] += 1

    def unload(self, places: Sequence[int]) -> torch.Tensor:
        """The latents [n, C, h, w] of finished requests, copied out; their places are free."""
        for place in places:
            self._noise[place] = None
        return self.x.index_select(0, upload(torch.tensor(places), self.device))

    def preview(self, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x0 of the last step [n, C, h, w] and, where kept, its squared guidance gap ||cond - uncond||^2 [n]."""
        index = upload(torch.tensor(places), self.device)
        return self.x0.index_select(0, index), None if self.gap is None else self.gap.index_select(0, index)

    def _pack(self, active: Sequence[tuple[int, int]]) -> Rows:
        places, rows = np.array(active, np.int64).T
        count, guided = len(places), np.flatnonzero(rows == 2)
        pairs = slice(count, count + len(guided))
        source = np.full(self.rows, self.idle)
        source[:count], source[pairs] = places, places[guided]
        condition = source.copy()
        condition[pairs] += self.places + 1
        partner = np.arange(self.rows)
        partner[guided] = np.arange(pairs.start, pairs.stop)
        target = np.full(self.rows, self.sink)
        target[:count] = places
        numbers = np.empty((self.rows, COLUMNS + 1), np.float32)
        numbers[:, :COLUMNS] = self._trajectory[source, self._index[source]]
        numbers[:, COLUMNS] = self._guidance[source]
        return Rows(source, condition, partner, target, numbers)

    def _drawn(self, active: Sequence[tuple[int, int]]) -> torch.Tensor | None:
        """This step's noise [width, C, h, w]: each request's own next draw, zero where its step draws none."""
        if not self.draws:
            return None
        noise = torch.zeros(self.width, *self.latent_shape, dtype=torch.float32)
        for row, (place, _) in enumerate(active):
            if self._draws[place, self._index[place]]:
                self._noise[place].draw(into=noise[row : row + 1])
        return upload(noise, self.device)
