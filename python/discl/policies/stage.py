"""What a policy is told about an epoch, and equal blocks of epochs."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """levels: the spectrum's, ascending. epoch: in [0, epochs). level: of the policy `fixed`.

    progress: level -> gain in true-class probability, as observed before this epoch (policy `adaptive`).
    """

    levels: tuple[int, ...]
    epoch: int
    epochs: int
    seed: int = 0
    level: int | None = None
    progress: Mapping[int, float] = field(default_factory=dict)

    @property
    def block(self) -> int:
        """Index of this epoch's block: one block per level, equal lengths, the remainder to the earliest."""
        length, longer = divmod(self.epochs, len(self.levels))
        if self.epoch < longer * (length + 1):
            return self.epoch // (length + 1)
        return longer + (self.epoch - longer * (length + 1)) // length
