"""The ladder: one row per speed lever on the demo's trained model, each with its equivalence gate.

Every lever is a few lines of config. It generates the demo's spectrum into a store of its own, which the gate compares
with the exact float32 one and on which the demo's classifier is trained; then all levers take turns on a part of the
same requests. Rates are accepted images a second: made faster and then thrown away is not faster.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.gate import few_class_accuracy, gate
from benchmarks.timing import interleave, record, seconds
from discl import Engine, Request, generate
from discl.config import RunConfig, load_config, to_toml
from discl.data import load_data
from discl.demo.run import demo_config
from discl.generation import make_engine
from discl.hard import select_hard
from discl.plan import make_plan
from discl.recipe import make_recipe
from discl.selection import accepts

BASE = "exact float32, eager"
LEVERS: dict[str, dict] = {
    BASE: {},
    "torch.compile": {"model.backend": "torch-compile"},
    "bfloat16": {"model.backend": "torch-compile", "model.dtype": "bfloat16"},
    "guidance interval": {"spectrum.guidance_interval": [0.1, 0.7]},
    "DPM++ 2M, 12 steps": {"spectrum.solver": "dpmpp-2m", "spectrum.steps": 12},
    "few-step, DPM++ 2M, 6": {"spectrum.solver": "dpmpp-2m", "spectrum.steps": 6, "spectrum.mode": "few-step"},
    "early rejection, 2 %": {"engine.early_rejection": True, "engine.false_reject_limit": 0.02},
    "early rejection, 10 %": {"engine.early_rejection": True, "engine.false_reject_limit": 0.1},
    "all together": {
        "model.backend": "torch-compile",
        "model.dtype": "bfloat16",
        "spectrum.solver": "dpmpp-2m",
        "spectrum.steps": 6,
        "spectrum.mode": "few-step",
        "engine.early_rejection": True,
        "engine.false_reject_limit": 0.1,
    },
}
SMALL = {"hard.limit": 2, "spectrum.seeds": [0, 1], "spectrum.steps": 4, "curriculum.epochs": 2}


def run(small: bool = False) -> dict:
    levers = dict(list(LEVERS.items())[:1]) | {"guidance interval": LEVERS["guidance interval"]} if small else LEVERS
    seeds, repeats, every = ((0,), 2, 1) if small else (range(5), 5, 6)
    with tempfile.TemporaryDirectory() as folder:
        configs = {
            name: _config(Path(folder), str(number), {**lever, **(SMALL if small else {})})
            for number, (name, lever) in enumerate(levers.items())
        }
        stores = {name: generate(config) for name, config in configs.items()}
        gates = {name: gate(stores[BASE], store) for name, store in stores.items()}
        accuracy = {name: few_class_accuracy(config, seeds) for name, config in configs.items()}
        engines = {name: make_engine(config, config.engine.slots) for name, config in configs.items()}
        contestants = {name: _accepted(engines[name], configs[name], every) for name in levers}
        for contestant in contestants.values():
            contestant()  # compiles and warms up
        rates = interleave(contestants, repeats)
    for name in levers:
        _tell(name, gates[name]["all"], accuracy[name])
    return record(
        "levers",
        rates,
        "accepted images/s",
        {f"{name} / exact": (name, BASE) for name in levers if name != BASE},
        keep=not small,
        model="demo",
        levers=levers,
        gates=gates,
        few_class_accuracy=accuracy,
    )


def _config(folder: Path, name: str, overrides: dict) -> RunConfig:
    base = folder / name
    base.mkdir()
    (base / "demo.toml").write_text(to_toml(demo_config(base)))
    return load_config(base / "demo.toml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


def _accepted(engine: Engine, config: RunConfig, every: int) -> Callable[[], float]:
    """A run over a part of the plan's requests -> accepted images a second."""
    requests = _requests(config)[::every]

    def rate() -> float:
        samples: list = []
        elapsed = seconds(lambda: samples.extend(engine.run(requests)))
        verdicts = [
            sample.status == "ok"
            and accepts(config.score, sample.text_score, sample.request.class_name, sample.request.level)
            for sample in samples
        ]
        return float(np.sum(verdicts)) / elapsed

    return rate


def _requests(config: RunConfig) -> list[Request]:
    table = load_data(config.data)
    plan = make_plan(config, table, select_hard(config.hard, table), make_recipe(config))
    return [request for _, request in plan.due(lambda planned: None)]


def _tell(name: str, gate: dict, accuracy: list[float]) -> None:
    print(
        f"  {name:24} score shift {gate['score_shift_mean']:+.4f} (largest {gate['score_shift_max']:.4f}), "
        f"flips {gate['flips']:.1%}, accepted {gate['accepted']:.1%}, PSNR {gate['psnr_median']:.1f} dB, "
        f"few-class {100 * np.mean(accuracy):.1f} ± {100 * np.std(accuracy, ddof=1 if len(accuracy) > 1 else 0):.1f}"
    )
