"""Worker-hours that `discl plan` says after a probe, beside what the run then took: their errors over several runs.

Each round is what a user does on the demo's data and model: `discl plan --probe 8`, then `discl generate`, each a fresh
process into a fresh store; the estimate is made of the probe's record alone. An error is |plan / actual - 1|. The
settings hold every round's signed errors (those of images and network evaluations are none), and in how many rounds
the actual lay within the plan's span. Nothing else may run on the machine, or the errors are its neighbours'.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.timing import record
from discl.atomic import write_atomic
from discl.cli.plan_costs import probe_store
from discl.cli.plan_summary import Planned
from discl.config import RunConfig, load_config, to_toml
from discl.demo.run import demo_config
from discl.planning.estimate import estimate
from discl.planning.history import made, measured, runs_of, seconds_of

ASKED, ROUNDS = 0.1, 5


def run(small: bool = False) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rounds = [one_round(Path(folder) / str(number), small) for number in range(1 if small else ROUNDS)]
    errors = {name: [found[name] for found in rounds] for name in rounds[0]}
    assert not any(errors["images"]) and not any(errors["evaluations"]), errors
    rates = {"error": np.abs(errors["worker-hours"]), "asked": np.full(len(rounds), ASKED)}
    ratios = {"10 % / error of worker-hours": ("asked", "error")}
    within = sum(errors.pop("within span"))
    record("plan", rates, "error", ratios, not small, errors=errors, within_span=f"{within:.0f} of {len(rounds)}")


def one_round(folder: Path, small: bool) -> dict[str, float]:
    """Signed errors of the plan by what it is about; whether the actual seconds lay within the plan's span."""
    folder.mkdir()
    config = demo_config(folder, {"spectrum.seeds": 1} if small else {})
    write_atomic(folder / "run.toml", to_toml(config).encode())
    for command in (["plan", "--probe", "8"], ["generate"]):
        subprocess.run(
            [sys.executable, "-m", "discl", *command, str(folder / "run.toml")], check=True, capture_output=True
        )
    return _errors(load_config(folder / "run.toml"))


def _errors(config: RunConfig) -> dict[str, float]:
    planned = Planned(config)
    plan, store = planned.plan, Path(config.store.path)
    rates, after = measured(probe_store(planned.config), plan, "the probe"), measured(store, plan, "the run")
    (run,) = runs_of(store, plan.recipe_digest)
    cost, seconds = estimate(plan, rates, config.budget), seconds_of(run)
    low, high = cost.span or (cost.hours, cost.hours)
    return {
        "worker-hours": 3600 * cost.hours / seconds - 1,
        "images": cost.attempts / made(run) - 1,
        "evaluations": cost.evaluations / run["unet_evaluations"] - 1,
        "accepted": cost.accepted / run["counts"]["accepted"] - 1,
        "bytes": rates.bytes / after.bytes - 1,
        "within span": float(3600 * low <= seconds <= 3600 * high),
    }
