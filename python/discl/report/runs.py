"""Folders that `discl train`, `demo` or `generate` left come in; one page over all of them goes out."""

import os
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from discl.config.sections import DataConfig
from discl.errors import DisclError
from discl.report.page import write_report
from discl.report.run_folder import Run, open_run
from discl.run_record import versions, worked

STAGES = {
    "load": "load models",
    "engine.text": "encode prompts",
    "engine.encode": "encode sources",
    "engine.start": "draw noise",
    "engine.unet": "denoise",
    "engine.decode": "decode",
    "engine.score": "score with CLIP",
    "rest": "queue and store",
}


def report_runs(
    folders: Iterable[str | os.PathLike], out: str | os.PathLike | None = None, compared: Any = None
) -> Path:  # fmt: skip
    """Write the page (default: report.html in the first folder) and return its path.

    The first folder gives the spectrum, the config and the times; the result tables of all are put together.
    compared: what `discl.report.compare.compare` made of the runs, for a section of its own.
    Raises ConfigError for a folder that holds neither a run nor a store.
    """
    runs = [open_run(folder) for folder in folders]
    first = runs[0]
    config = first.config.model_dump(mode="json") if first.config else _recorded(first, "config")
    return write_report(
        out or first.folder / "report.html",
        title=f"Spectrum report: {config.get('data', {}).get('kind', first.folder.name)}",
        store=first.store,
        sources=SourceFiles(first.data),
        metrics=merged_metrics(runs),
        compared=compared,
        config=config,
        stages=stages(first.records, first.metrics),
        versions=_recorded(first, "versions") or versions(),
    )


class SourceFiles:
    """source id -> the encoded source image; None where the data is not here."""

    def __init__(self, data: DataConfig | None):
        self.data = data

    @cached_property
    def paths(self) -> dict[str, str]:
        from discl.data import load_data

        try:
            # Unchecked: some dozens of sources are shown, and what cannot be read has no picture.
            table = load_data(self.data, check=False) if self.data else None
        except (DisclError, OSError):
            return {}  # a report over a store must not fail because the data has moved
        return dict(zip(table.ids, table.paths, strict=True)) if table else {}

    def __call__(self, source: str) -> bytes | None:
        from discl.data.images import open_image

        path = self.paths.get(source)
        try:
            return Path(path).read_bytes() if path and open_image(path) else None
        except (DisclError, OSError):
            return None


def merged_metrics(runs: list[Run]) -> dict[str, Any]:
    """One result table: methods of one run keep their names, else the folder's name stands before them."""
    tables = [(run.folder.name, run.metrics) for run in runs if run.metrics]
    if len(tables) == 1:
        name, metrics = tables[0]
        return metrics if "methods" in metrics else {"methods": {name: single(metrics)}}
    methods: dict[str, Any] = {}
    for name, metrics in tables:
        found = metrics.get("methods") or {"": single(metrics)}
        methods |= {f"{name} {method}".strip(): groups for method, groups in found.items()}
    return {"methods": methods}


def single(metrics: dict[str, Any]) -> dict[str, Any]:
    """One training's fractions as a method without deviations."""
    names = ("overall", "many", "medium", "few")
    return {name: {"mean": metrics[name], "std": None} for name in names if metrics.get(name) is not None}


def stages(records: list[dict[str, Any]], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds and UNet evaluations by stage, over all runs that filled the store and the trainings."""
    seconds: dict[str, float] = defaultdict(float)
    for record in records:
        for stage, value in record.get("seconds", {}).items():
            seconds[stage] += value
        seconds["rest"] += _rest(record.get("seconds", {}))
    rows = [{"stage": label, "seconds": seconds[stage]} for stage, label in STAGES.items() if seconds[stage]]
    for row in rows:
        if row["stage"] == STAGES["engine.unet"]:
            row["unet_evaluations"] = sum(record.get("unet_evaluations", 0) for record in records)
            row["note"] = "; ".join(map(_occupancy, records))
    return rows + [{"stage": name, "seconds": value} for name, value in metrics.get("seconds", {}).items()]


def _rest(seconds: dict[str, float]) -> float:
    """What the engine's stages leave of generating, on all workers."""
    engine = sum(of for stage, of in seconds.items() if stage.startswith("engine.") and not stage.endswith(".warm-up"))
    return max(worked(seconds) - engine, 0.0)


def _occupancy(record: dict[str, Any]) -> str:
    return f"{record.get('slots', '?')} slots, {record.get('slot_occupancy', 0):.1%} occupied"


def _recorded(run: Run, name: str) -> dict[str, Any]:
    """From the newest record of the store, else empty."""
    return run.records[-1].get(name, {}) if run.records else {}
