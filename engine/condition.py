"""What the network is told besides latent and timestep: text, size and guidance, for one request or a batch."""

from typing import NamedTuple

import torch


class Condition(NamedTuple):
    """One request's tensors as below; a batch has a leading R on each. None where the model's family has no such input.

    states [n, d]: text states for cross-attention. pooled [p]: the pooled text (SDXL). time_ids [k]: sizes, crop and
    aesthetic score (SDXL). guidance [e]: the embedded guidance scale of distilled networks (LCM).
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None
    guidance: torch.Tensor | None = None

    def zeros(self, rows: int) -> "Condition":
        """A batch of `rows` zero conditions of this one's shapes, dtypes and device."""
        return Condition(*(None if part is None else part.new_zeros(rows, *part.shape) for part in self))

    def put(self, row: int, condition: "Condition") -> None:
        """Write one request's condition into row `row` of this batch."""
        for batch, part in zip(self, condition, strict=True):
            if batch is not None:
                batch[row] = part
