"""How long a worker takes for what: see `history` for measured rates; here are those assumed from a table of GPUs."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from discl.config import RunConfig
from discl.errors import ConfigError
from discl.planning.work import Flops

LOAD_S = 60.0  # assumed until a run has been seen: a worker's start, from its node's to its first step


class Gpu(NamedTuple):
    """Dense peaks of the vendor in TFLOP/s, and the share of them that is assumed to be reached (MFU)."""

    half: float
    full: float
    mfu_half: float = 0.35
    mfu_full: float = 0.5


# Data sheets of the vendor, without sparsity: 16 bit tensor cores with float32 sums, and plain float32.
GPUS = {
    "T4": Gpu(65, 8.1, 0.3),
    "V100": Gpu(125, 15.7, 0.3),
    "A10": Gpu(125, 31.2, 0.3),
    "L4": Gpu(121, 30.3, 0.3),
    "L40S": Gpu(362, 91.6),
    "A100": Gpu(312, 19.5),
    "H100": Gpu(989, 67),
    "H200": Gpu(989, 67),
    "RTX4090": Gpu(165, 82.6),
}


@dataclass(frozen=True)
class Rates:
    """Seconds of one worker, by what they go with. `basis` says where from.

    per_evaluation: of a network row, idle or not: a step's batch has always `rows` of them. per_image: of decoding,
    scoring, encoding, writing. per_source: of encoding it and its texts. load, warm_up: once at each start of a worker.
    idle: rows beyond whole batches that found no work, at each start. acceptance: level -> share of the attempts.
    bytes: of one made image, None where nothing was measured. avoided: share of the evaluations that early rejection
    saved. unsteady: how the pace varied in `seen` seconds, see `discl.pace`; None where too few were measured.
    """

    per_evaluation: float
    per_image: float
    load: float
    basis: str
    acceptance: dict[int, float] = field(default_factory=dict)
    bytes: float | None = None
    avoided: float = 0.0
    per_source: float = 0.0
    warm_up: float = 0.0
    rows: int = 1
    idle: float = 0.0
    unsteady: float | None = None
    seen: float = 0.0

    @property
    def start(self) -> float:
        """Seconds of a worker before it makes samples at its pace, and of its batches that are not full."""
        return self.load + self.warm_up + self.idle * self.per_evaluation

    def seconds(self, evaluations: float, images: float, sources: float = 0.0) -> float:
        """Of work alone, without starts."""
        return evaluations * self.per_evaluation + images * self.per_image + sources * self.per_source


def assumed(config: RunConfig, flops: Flops) -> Rates:
    """From [budget] gpu. ConfigError for a name that is not in the table."""
    name = config.budget.gpu
    if name not in GPUS:
        raise ConfigError(f"[budget] gpu = {name!r}: known are {', '.join(GPUS)}")
    gpu, half = GPUS[name], config.model.dtype != "float32"
    mfu = config.budget.mfu or (gpu.mfu_half if half else gpu.mfu_full)
    rate = mfu * (gpu.half if half else gpu.full) * 1e12
    basis = f"ASSUMED: {name} at {rate / 1e12:.3g} TFLOP/s ({mfu:.0%} of its {'16 bit' if half else 'float32'} peak)"
    return Rates(
        per_evaluation=flops.evaluation / rate,
        per_image=(flops.decode + flops.score) / rate,
        per_source=(flops.encode + flops.score) / rate,
        load=LOAD_S,
        basis=basis,
    )


def whole_batches(evaluations: float, rows: int, longest: int) -> float:
    """Rows of the fewest batches of `rows` that do this work, of which one sample takes `longest` steps."""
    return rows * max(math.ceil(evaluations / rows), longest) if evaluations else 0.0
