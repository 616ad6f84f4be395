"""A run's workers as the coordinator knows them, and which installed versions they must share with it."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A worker with others of these makes other pixels.
DECISIVE = ("discl", "torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow")


def different_versions(there: dict[str, str], here: dict[str, str]) -> list[str]:
    return [f"{name} {there.get(name)} there, {here[name]} here" for name in DECISIVE if there.get(name) != here[name]]


@dataclass
class Member:
    """A worker as the coordinator knows it. state: starting, working, stopped, lost, failed or refused."""

    name: str
    folder: Path
    host: str = "?"
    state: str = "starting"
    samples: int = 0
    load: float = 0.0  # seconds before it could work
    began: float | None = None  # by the coordinator's monotonic clock
    ended: float | None = None
    seen: float = field(default_factory=time.time)
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluations(self) -> int:
        return self.stats.get("unet_evaluations", 0)

    @property
    def seconds(self) -> float:
        """That it worked."""
        return 0.0 if self.began is None else (self.ended or time.monotonic()) - self.began

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "host": self.host,
            "state": self.state,
            "samples": self.samples,
            "seen": self.seen,
            "seconds": self.seconds,
            "slot_occupancy": self.stats.get("slot_occupancy"),
        }
