"""The batch: one static shape, one row per running request. Rows are loaded, stepped together and unloaded alone."""

import numpy as np
import torch

from discl.engine.condition import Condition
from discl.engine.denoiser import Denoise, advance
from discl.engine.noise_schedule import NoiseSchedule
from discl.engine.reproducible import stable_rows

IDLE = 0  # the table's first row: all zeros, so an idle slot stays at zero


def step_table(schedule: NoiseSchedule, device: torch.device) -> torch.Tensor:
    """[1 + steps, 12] float32: the idle row, then timestep, input scale and solver coefficients of each step."""
    table = np.zeros((1 + schedule.steps, 12), np.float32)
    table[1:, 0] = schedule.timesteps
    table[1:, 1] = schedule.input_scale
    table[1:, 2:] = schedule.coefficients
    table[IDLE, -1] = np.inf
    return torch.from_numpy(table).to(device)


class Slots:
    """Buffers of one bucket, stepped through one denoiser.

    latent_shape: (C, h, w). guided: whether a slot needs an unconditional row beside its conditional one.
    """

    def __init__(
        self,
        slots: int,
        latent_shape: tuple[int, int, int],
        guided: bool,
        table: torch.Tensor,
        denoise: Denoise,
    ):
        device = table.device
        self.table, self.denoise = table, denoise
        self.rows = stable_rows(slots, copies=2 if guided else 1)  # those past `slots` are always idle
        self.x = torch.zeros(self.rows, *latent_shape, device=device)
        self.guidance = torch.ones(self.rows, device=device) if guided else None
        self.condition: Condition | None = None  # allocated with the first request, which tells its shapes
        self.place = np.full(self.rows, IDLE, np.int64)  # each row's line of the table

    def load(
        self,
        slot: int,
        latent: torch.Tensor,
        cond: Condition,
        uncond: Condition | None,
        guidance: float,
        start: int,
    ) -> None:
        """Put a request at grid index `start` into a free slot."""
        if self.condition is None:
            self.condition = cond.zeros(self.rows if self.guidance is None else 2 * self.rows)
        self.x[slot] = latent
        self.place[slot] = 1 + start
        if self.guidance is None:
            self.condition.put(slot, cond)
        else:
            self.guidance[slot] = guidance
            self.condition.put(slot, uncond)
            self.condition.put(self.rows + slot, cond)

    def step(self) -> None:
        """One network evaluation for all slots."""
        row = self.table[torch.from_numpy(self.place).to(self.table.device)]
        self.x = advance(self.denoise, self.x, self.condition, self.guidance, row)
        self.place[self.place != IDLE] += 1

    def unload(self, slot: int) -> torch.Tensor:
        """The finished latent [C, h, w], copied out; the slot is idle again."""
        latent = self.x[slot].clone()
        self.clear(slot)
        return latent

    def clear(self, slot: int) -> None:
        self.x[slot] = 0
        self.place[slot] = IDLE
