"""How many images a GPU makes in a second: measured by earlier runs of the recipe, else assumed from a table."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from discl.config import RunConfig
from discl.errors import ConfigError
from discl.level_work import LevelWork
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
    """seconds = evaluations * per_evaluation + images * per_image, of one worker. `basis` says where from.

    acceptance: level -> share of the attempts; bytes: of one made image. Both None where nothing was measured.
    """

    per_evaluation: float
    per_image: float
    load: float
    basis: str
    acceptance: dict[int, float] = field(default_factory=dict)
    bytes: float | None = None
    avoided: float = 0.0  # share of the evaluations that early rejection saved

    def seconds(self, evaluations: float, images: float) -> float:
        return evaluations * self.per_evaluation + images * self.per_image


def assumed(config: RunConfig, flops: Flops) -> Rates:
    """From [budget] gpu. ConfigError for a name that is not in the table."""
    name = config.budget.gpu
    if name not in GPUS:
        raise ConfigError(f"[budget] gpu = {name!r}: known are {', '.join(GPUS)}")
    gpu, half = GPUS[name], config.model.dtype != "float32"
    mfu = config.budget.mfu or (gpu.mfu_half if half else gpu.mfu_full)
    rate = mfu * (gpu.half if half else gpu.full) * 1e12
    basis = f"ASSUMED: {name} at {rate / 1e12:.3g} TFLOP/s ({mfu:.0%} of its {'16 bit' if half else 'float32'} peak)"
    return Rates(flops.evaluation / rate, (flops.decode + flops.score) / rate, LOAD_S, basis)


# Stages that take a time per image; the rest of a run goes by network evaluations.
PER_IMAGE = ("engine.decode", "engine.score", "image-encode", "write")


def measured(store: Path, recipe: str, work: Mapping[int, LevelWork], what: str) -> Rates | None:
    """From the runs of this recipe in the store; None where none made anything."""
    runs = [run for run in runs_of(store, recipe) if seconds_of(run) and made(run)]
    if not runs:
        return None
    evaluations = sum(run["unet_evaluations"] for run in runs)
    spent, images = sum(map(seconds_of, runs)), sum(map(made, runs))
    each = min(spent, sum(run["seconds"].get(stage, 0.0) for run in runs for stage in PER_IMAGE))
    levels: dict[int, Counter[str]] = {}
    for run in runs:
        for level, counts in (run.get("levels") or {}).items():
            levels.setdefault(int(level), Counter()).update(counts)
    planned = sum(counts["made"] * work[level].evaluations for level, counts in levels.items() if level in work)
    acceptance = {level: counts["accepted"] / counts["made"] for level, counts in levels.items() if counts["made"]}
    loads = [run["seconds"]["load"] for run in runs if "load" in run.get("seconds", {})]
    return Rates(
        per_evaluation=(spent - each) / evaluations if evaluations else 0.0,
        per_image=(each if evaluations else spent) / images,
        load=sum(loads) / len(loads) if loads else LOAD_S,
        basis=f"measured: {what}, {images:,} images in {spent:,.0f} s of one worker",
        acceptance=acceptance,
        bytes=_image_bytes(store),
        avoided=max(0.0, 1 - evaluations / planned) if planned and evaluations else 0.0,
    )


def runs_of(store: Path, recipe: str) -> list[dict[str, Any]]:
    found: Iterable[dict[str, Any]] = (_read(file) for file in sorted((store / "runs").glob("*.json")))
    return [run for run in found if run.get("recipe_digest") == recipe]


def _read(file: Path) -> dict[str, Any]:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def seconds_of(run: dict[str, Any]) -> float:
    """Worker-seconds of generating."""
    seconds = run.get("seconds") or {}
    return seconds.get("workers", seconds.get("generate", 0.0))


STATUSES = ("ok", "rejected-early", "nan", "error")


def made(run: dict[str, Any]) -> int:
    """Samples."""
    return sum((run.get("counts") or {}).get(status, 0) for status in STATUSES)


def _image_bytes(store: Path) -> float | None:
    from discl.store import manifest

    shards = manifest.sealed_shards(store)
    images = sum(shard.images for shard in shards)
    total = sum(entry["bytes"] for shard in shards for entry in shard.files.values())
    return total / images if images else None
