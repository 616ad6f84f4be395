"""The ladder: one row per speed lever on the demo's trained model, each with its equivalence gate.

Every lever is a few lines of config. It generates the demo's spectrum into a store of its own, which the gate compares
with the exact float32 one and on which the demo's classifier is trained; then all levers take turns on a part of the
same requests. Rates are accepted images a second: made faster and then thrown away is not faster.
A lever that makes only some of the levels is compared with exact images of those levels. On a CPU, float8 computes a
GPU's numbers slowly: its gate is the point, not its rate.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.gate import few_class_accuracy, gate
from benchmarks.levers import BASE, LEVERS
from benchmarks.timing import interleave, record, seconds
from discl import Engine, Request, generate
from discl.config import RunConfig, load_config, to_toml
from discl.data import load_data
from discl.demo.run import demo_config
from discl.engine.rejection import Rule
from discl.generation import make_engine
from discl.hard import select_hard
from discl.plan import make_plan
from discl.recipe import digest, make_recipe
from discl.rejection import rule_file
from discl.selection import accepts

SMALL = {"hard.limit": 2, "spectrum.seeds": [0, 1], "spectrum.steps": 4, "curriculum.epochs": 2}
TIMED = 180  # requests of a timed run, drawn from the plan's


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lever", action="append", choices=list(LEVERS)[1:], help="instead of all; may be repeated")
    parser.add_argument(
        "--seeds",
        type=int,
        help="of every image and level (default: 12); early rejection calibrates from 48",
    )


def run(small: bool = False, lever: list[str] | None = None, seeds: int | None = None) -> list[dict]:
    names = lever or (["guidance interval", "pure noise"] if small else list(LEVERS)[1:])
    trainings, repeats = ((0,), 2) if small else (range(5), 5)
    common = (SMALL if small else {}) | ({"spectrum.seeds": seeds} if seeds else {})
    with tempfile.TemporaryDirectory() as folder:
        configs = {
            name: _config(Path(folder), str(number), {**common, **LEVERS[name]})
            for number, name in enumerate([BASE, *names])
        }
        stores = {name: generate(config) for name, config in configs.items()}
        gates = {name: gate(stores[BASE], stores[name], configs[name].spectrum.levels) for name in names}
        accuracy = {name: few_class_accuracy(config, trainings) for name, config in configs.items()}
        contestants, peers = _contestants(configs)
        for contestant in contestants.values():
            contestant()  # compiles and warms up
        rates = interleave(contestants, repeats)
    rows = []
    for name in names:
        rows.append(
            record(
                "levers",
                {peers[name]: rates[peers[name]], name: rates[name]},
                "accepted images/s",
                {"lever / exact": (name, peers[name])},
                keep=not small,
                model="demo",
                lever=name,
                config=LEVERS[name],
                seeds=len(configs[name].spectrum.seeds),
                gate=gates[name],
                few_class_accuracy={"lever": accuracy[name], "exact": accuracy[BASE]},
            )
        )
        _tell(name, gates[name]["all"], accuracy[name])
    return rows


def _contestants(configs: dict[str, RunConfig]) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """Contestants by name, and each lever's peer: the exact engine on the lever's levels."""
    engines = {name: _engine(config) for name, config in configs.items()}
    contestants, peers = {}, {}
    for name, config in configs.items():
        levels = config.spectrum.levels
        peers[name] = BASE if levels == configs[BASE].spectrum.levels else f"{BASE}, levels {list(levels)}"
        contestants[name] = _accepted(engines[name], config)
        if peers[name] not in contestants:
            contestants[peers[name]] = _accepted(engines[BASE], configs[BASE], levels)
    return contestants, peers


def _config(folder: Path, name: str, overrides: dict) -> RunConfig:
    base = folder / name
    base.mkdir()
    (base / "demo.toml").write_text(to_toml(demo_config(base)))
    return load_config(base / "demo.toml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


def _engine(config: RunConfig) -> Engine:
    """As `generate` had it: with the rule that it calibrated."""
    engine = make_engine(config, config.engine.slots)
    if config.engine.early_rejection:
        engine.reject_by(engine.judge(Rule.load(rule_file(config.store.path, digest(make_recipe(config))))))
    return engine


def _accepted(engine: Engine, config: RunConfig, levels: Sequence[int] | None = None) -> Callable[[], float]:
    """A run over a part of the plan's requests (of these levels) -> accepted images a second."""
    wanted = [each for each in _requests(config) if levels is None or each.level in levels]
    # Drawn, since every n-th of a plan may be all of one level.
    drawn = np.random.default_rng(0).permutation(len(wanted))[:TIMED]
    requests = [wanted[place] for place in np.sort(drawn)]

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
