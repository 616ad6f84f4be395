"""The batch: one static shape, one row per running request. Rows are loaded, stepped together and unloaded alone."""

import numpy as np
import torch

from discl.engine.condition import Condition
from discl.engine.denoiser import Denoise, advance
from discl.engine.reproducible import stable_rows

IDLE = np.zeros((1, 12), np.float32)  # keeps an idle slot at zero
IDLE[:, -1] = np.inf


class Slots:
    """Buffers of one bucket, stepped through one denoiser.

    latent_shape: (C, h, w). guided: whether a slot needs an unconditional row beside its conditional one.
    """

    def __init__(
        self,
        slots: int,
        latent_shape: tuple[int, int, int],
        guided: bool,
        device: torch.device,
        denoise: Denoise,
    ):
        self.device, self.denoise = device, denoise
        self.rows = stable_rows(slots, copies=2 if guided else 1)  # those past `slots` are always idle
        self.x = torch.zeros(self.rows, *latent_shape, device=device)
        self.guidance = torch.ones(self.rows, device=device) if guided else None
        self.condition: Condition | None = None  # allocated with the first request, which tells its shapes
        self.steps = [IDLE] * self.rows  # each slot's steps that are still to do, float32 [k, 12]

    def load(
        self,
        slot: int,
        latent: torch.Tensor,
        cond: Condition,
        uncond: Condition | None,
        guidance: float,
        steps: np.ndarray,
    ) -> None:
        """Put a request with the rows of its trajectory into a free slot."""
        if self.condition is None:
            self.condition = cond.zeros(self.rows if self.guidance is None else 2 * self.rows)
        self.x[slot] = latent
        self.steps[slot] = steps
        if self.guidance is None:
            self.condition.put(slot, cond)
        else:
            self.guidance[slot] = guidance
            self.condition.put(slot, uncond)
            self.condition.put(self.rows + slot, cond)

    def step(self) -> None:
        """One network evaluation for all slots."""
        row = torch.from_numpy(np.stack([steps[0] for steps in self.steps])).to(self.device)
        self.x = advance(self.denoise, self.x, self.condition, self.guidance, row)
        self.steps = [steps[1:] if len(steps) > 1 else IDLE for steps in self.steps]

    def unload(self, slot: int) -> torch.Tensor:
        """The finished latent [C, h, w], copied out; the slot is idle again."""
        latent = self.x[slot].clone()
        self.clear(slot)
        return latent

    def clear(self, slot: int) -> None:
        self.x[slot] = 0
        self.steps[slot] = IDLE
