"""Rows that `python -m benchmarks engine` has recorded in, the rate of a GPU out."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from discl.config import RunConfig
from discl.errors import ConfigError
from discl.planning.rates import LOAD_S, Rates
from discl.planning.work import Flops

UNIT, WORK = "images/s", "unet_flops_per_image"


def of_rows(config: RunConfig, flops: Flops) -> Rates:
    """By the youngest row of [budget] rows for its gpu and the model's dtype: the row's FLOP/s of the UNet, in whose
    time it has done everything else as well. ConfigError where there is none."""
    file, gpu, dtype = Path(config.budget.rows), config.budget.gpu, config.model.dtype
    rows = _read(file)
    ours = [row for row in rows if gpu and _is(row, gpu) and row["settings"]["dtype"] == dtype]
    fitting = [row for row in ours if _name(config, row)]
    if not fitting:
        there = sorted({f"{row['device']} {row['settings']['dtype']}" for row in rows}) or ["none that say their work"]
        raise ConfigError(
            f'[budget] rows = {str(file)!r}: no engine row for gpu = "{gpu}" and {dtype}; it has: {", ".join(there)}'
        )
    row = fitting[-1]
    settings, name = row["settings"], _name(config, row)
    rate = row["p20_p50_p80"][name][1] * settings[WORK]
    return Rates(
        per_evaluation=flops.evaluation / rate,
        per_image=0.0,
        load=LOAD_S,
        warm_up=settings.get("warm_up_seconds", {}).get(name, 0.0),
        rows=2 * settings["slots"] if isinstance(settings.get("slots"), int) else 1,
        basis=f"measured: {settings['model']} {settings['size']} {dtype} on {row['device']} ({name}), "
        f"{rate / 1e12:.3g} TFLOP/s with all else, {row['time'][:10]}",
    )


def _read(file: Path) -> list[dict[str, Any]]:
    """The rows that tell images a second and the work of one."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [row for row in rows if row.get("unit") == UNIT and row.get("settings", {}).get(WORK)]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"[budget] rows = {str(file)!r}: cannot be read ({error}); give one such as benchmarks/results/engine.jsonl"
        ) from error


def _is(row: dict[str, Any], gpu: str) -> bool:
    """Whether the row's device has the name as a word: A10 is no A100, RTX4090 is the RTX 4090."""
    words = row["device"].upper().replace("-", " ").split()
    return gpu.upper() in {*words, *(one + other for one, other in pairwise(words))}


def _name(config: RunConfig, row: dict[str, Any]) -> str | None:
    """The contestant that runs as the config asks; None where none did."""
    form = "engine, eager" if config.model.backend == "torch" else "engine, compiled"
    names = [f"{form}, CLIP", form] if config.score else [form]
    return next((name for name in names if name in row["p20_p50_p80"]), None)
