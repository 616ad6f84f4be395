"""What earlier runs of a recipe took: their records in, rates out, and the totals to set beside a plan."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from discl.engine.reproducible import stable_rows
from discl.level_work import LevelWork
from discl.pace import seconds_per_row, unsteadiness
from discl.plan import Plan
from discl.planning.rates import LOAD_S, Rates, whole_batches
from discl.run_record import paid, worked

# What a run's seconds go with; the rest of them goes with network rows, those that idle included.
PER_IMAGE = ("engine.start", "engine.decode", "engine.score", "image-encode", "write")
PER_SOURCE = ("engine.encode", "engine.text")
STATUSES = ("ok", "rejected-early", "nan", "error")


def runs_of(store: Path, recipe: str) -> list[dict[str, Any]]:
    """The records of this recipe that can be read, oldest first."""
    found: Iterable[dict[str, Any]] = (_read(file) for file in sorted((store / "runs").glob("*.json")))
    return [run for run in found if run.get("recipe_digest") == recipe]


def _read(file: Path) -> dict[str, Any]:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def seconds_of(run: Mapping[str, Any]) -> float:
    """Worker-seconds that were paid for. A run that was killed knows those up to its last sign of life."""
    seconds = run.get("seconds") or {}
    if not worked(seconds):
        return seconds.get("load", 0.0) + (run.get("progress") or {}).get("seconds", 0.0)
    return paid(seconds)


def made(run: Mapping[str, Any]) -> int:
    """Samples."""
    return sum((run.get("counts") or {}).get(status, 0) for status in STATUSES)


def measured(store: Path, plan: Plan, what: str) -> Rates | None:
    """From the runs of the plan's recipe in the store that came to an end; None where none made anything."""
    work = plan.work
    runs = [run for run in runs_of(store, plan.recipe_digest) if made(run) and worked(run.get("seconds") or {})]
    if not runs:
        return None
    seconds = Counter[str]()
    for run in runs:
        seconds.update(run["seconds"])
    images, evaluations = sum(map(made, runs)), sum(run["unet_evaluations"] for run in runs)
    starts = sum(map(_starts, runs))
    spent = worked(seconds)
    warm_up = min(spent, sum(of for stage, of in seconds.items() if stage.endswith(".warm-up")))
    each, once = (
        sum(seconds[stage] - seconds[f"{stage}.warm-up"] for stage in stages) for stages in (PER_IMAGE, PER_SOURCE)
    )
    rest = max(0.0, spent - warm_up - each - once)
    batches = [_batches(run, work) for run in runs]
    rows = sum(carried + idle for _, carried, idle in batches)
    shares = _acceptance(runs)
    paces = [run["pace"] for run in runs if run.get("pace")]
    planned = sum(counts["made"] * work[level].evaluations for level, counts in shares.items() if level in work)
    return Rates(
        per_evaluation=rest / rows if rows else 0.0,
        per_image=(each if rows else each + rest) / images,
        per_source=once * plan.per_source * plan.attempts.best_of / max(1, images - sum(map(_retried, runs))),
        load=seconds["load"] / starts if "load" in seconds else LOAD_S,
        warm_up=warm_up / starts,
        rows=max(size for size, _, _ in batches),
        idle=sum(idle for _, _, idle in batches) / starts,
        basis=f"measured: {what}, {images:,} images in {spent:,.0f} s of one worker",
        acceptance={level: counts["accepted"] / counts["made"] for level, counts in shares.items() if counts["made"]},
        bytes=_image_bytes(store),
        avoided=max(0.0, 1 - evaluations / planned) if planned and evaluations else 0.0,
        unsteady=unsteadiness([each for pace in paces for each in seconds_per_row(pace)]),
        seen=sum(pace[-1][0] - pace[0][0] for pace in paces),
    )


def _retried(run: Mapping[str, Any]) -> int:
    return run["counts"].get("retried", 0)


def _starts(run: Mapping[str, Any]) -> int:
    """How often a worker was started."""
    return max(1, sum(1 for worker in run.get("workers") or () if worker["samples"]))


def _batches(run: Mapping[str, Any], work: Mapping[int, LevelWork]) -> tuple[int, float, float]:
    """(rows of a step's batch; rows of the fewest whole batches for the run's work; rows that ran beyond these)."""
    copies = 2 if any(level.evaluations > level.steps for level in work.values()) else 1
    size = copies * stable_rows(run.get("slots") or 1, copies)
    longest = max((work[int(level)].steps for level in run.get("levels") or () if int(level) in work), default=0)
    evaluations, starts = run["unet_evaluations"], _starts(run)
    carried = whole_batches(evaluations / starts, size, longest) * starts
    return size, carried, max(0.0, evaluations / (run.get("slot_occupancy") or 1.0) - carried)


def _acceptance(runs: Iterable[Mapping[str, Any]]) -> dict[int, Counter[str]]:
    levels: dict[int, Counter[str]] = {}
    for run in runs:
        for level, counts in (run.get("levels") or {}).items():
            levels.setdefault(int(level), Counter()).update(counts)
    return levels


def _image_bytes(store: Path) -> float | None:
    from discl.store import manifest

    shards = manifest.sealed_shards(store)
    images = sum(shard.images for shard in shards)
    total = sum(entry["bytes"] for shard in shards for entry in shard.files.values())
    return total / images if images else None
