"""An output folder comes in; the whole method on real handwriting goes out, as a report."""

import json
import os
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from discl.atomic import write_atomic
from discl.config import RunConfig, load_config, to_toml
from discl.demo.low_quality import low_quality
from discl.generation import generate
from discl.methods import compare_methods, further_methods, methods_of
from discl.progress import OnEvent
from discl.report import report_runs
from discl.report.facts import store_facts
from discl.report.picture import write_picture
from discl.report.runs import SourceFiles
from discl.training import digest

SEEDS = 5  # trainings per method
# The same spectrum with early rejection, and more of it: a rule needs held-back samples that were accepted.
EARLY_REJECTION = {"engine.early_rejection": True, "engine.false_reject_limit": 0.1, "spectrum.seeds": 48}


def run_demo(out: str | os.PathLike = "discl-demo", full: bool = False, on_event: OnEvent | None = None) -> Path:
    """Hard digits -> spectrum -> selection -> every method of the result table -> report; returns its path.

    `out` receives data/, spectrum/ (the store), config.toml, metrics.json, spectrum.png and report.html. What a
    finished or interrupted run left there is not made again. `full` adds the other policies, adaptive among them, CUDA
    and FLYP with the demo's CLIP, and digits of low quality (data-lq, plain-lq, spectrum-lq): at most half an hour on
    two cores. early-rejection.toml is for `discl generate`: it calibrates early rejection on the demo's model and
    uses it.
    """
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    config = demo_config(out)
    write_atomic(out / "config.toml", to_toml(config).encode())
    early = demo_config(out, {**EARLY_REJECTION, "store.path": str(out / "early-rejection")})
    write_atomic(out / "early-rejection.toml", to_toml(early).encode())
    store = generate(config, on_event)
    seeds = range(SEEDS)
    identity = digest(to_toml(config), store.snapshot(), "full" * full, *map(str, seeds))
    if _identity(out / "metrics.json") != identity:
        metrics = _measured(config, seeds, full, out, on_event) | {"identity": identity}
        write_atomic(out / "metrics.json", json.dumps(metrics, indent=1).encode())
    write_picture(out / "spectrum.png", store_facts(store), SourceFiles(config.data))
    return report_runs([out])


def _measured(config: RunConfig, seeds: range, full: bool, out: Path, on_event: OnEvent | None) -> dict:
    """The result table; of a full demo also the one of low quality."""
    if not full:
        return compare_methods(config, seeds, on_event)
    assert config.score is not None
    methods = [*methods_of(config.spectrum.levels), *further_methods(config.score.clip)]
    metrics = compare_methods(config, seeds, on_event, methods)
    metrics["low_quality"], _ = low_quality(out, seeds, on_event)
    return metrics


def _identity(file: Path) -> str | None:
    """Which run made these metrics; None where there are none."""
    return json.loads(file.read_text("utf-8")).get("identity") if file.is_file() else None


def demo_config(out: Path, overrides: Mapping[str, Any] = MappingProxyType({})) -> RunConfig:
    """The demo's config: models from the package, data and store below `out`; overrides: by dotted key."""
    with as_file(files("discl.demo") / "digits.toml") as file:
        values = {"store.path": str(out / "spectrum"), "data.root": str(out / "data"), **overrides}
        return load_config(file, [f"{key}={json.dumps(value)}" for key, value in values.items()])
