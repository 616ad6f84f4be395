"""What a training tells its curriculum: frozen into each epoch's plan, and JSON in the sampler's state."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from discl.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Feedback:
    """progress: level -> gain in true-class probability. class_levels: class -> the levels it draws from.

    weights: float32 [N] by row of the dataset, read-only, or None: even draws.
    """

    progress: Mapping[int, float] = field(default_factory=dict)
    class_levels: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    weights: np.ndarray | None = None

    @cached_property
    def state(self) -> dict:
        """JSON-able; made once, since a training asks for it after every step."""
        return {
            "progress": sorted(map(list, self.progress.items())),
            "class_levels": sorted([label, list(levels)] for label, levels in self.class_levels.items()),
            "weights": None if self.weights is None else _packed(self.weights),
        }

    @classmethod
    def of(cls, state: dict) -> "Feedback":
        return cls(
            dict(map(tuple, state["progress"])),
            {label: tuple(levels) for label, levels in state["class_levels"]},
            None if state["weights"] is None else _unpacked(state["weights"]),
        )


def frozen_weights(weights, rows: int) -> np.ndarray:
    """A float32 copy that nobody can change. Raises ConfigError unless there is a sound weight for every row."""
    try:
        weights = np.array(weights, np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"weights must be numbers, one for each of the dataset's {rows} rows: {error}") from None
    if weights.shape != (rows,):
        raise ConfigError(f"weights of shape {list(weights.shape)}; give one for each of the dataset's {rows} rows")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ConfigError("weights must be finite and not negative, and some must be positive")
    weights.flags.writeable = False
    return weights


def _packed(weights: np.ndarray) -> str:
    return base64.b85encode(zlib.compress(weights.astype("<f4").tobytes(), 1)).decode()


def _unpacked(text: str) -> np.ndarray:
    weights = np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f4")
    return weights.astype(np.float32, copy=False)
