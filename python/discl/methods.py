"""A filled store and a config come in; the result table goes out: every method, over training seeds."""

import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from discl.config import RunConfig
from discl.cpu_threads import cpu_threads
from discl.data import DataTable, load_data
from discl.fitting import fit
from discl.learner import Learner
from discl.progress import Meter, OnEvent, ignore
from discl.store import Store
from discl.training import device_of, judge, training_loader

GROUPS = ("overall", "many", "medium", "few")


@dataclass(frozen=True)
class Method:
    """One row of the table: a curriculum policy and a loss; `level` belongs to the policy `fixed`."""

    name: str
    policy: str
    loss: str = "ce"
    level: int | None = None

    def configure(self, config: RunConfig, seed: int) -> RunConfig:
        """`config` with this method's policy and loss; all else, the number of steps too, stays as it is."""
        curriculum = config.curriculum.model_copy(update={"policy": self.policy, "level": self.level})
        train = config.train.model_copy(update={"loss": self.loss, "seed": seed})
        return config.model_copy(update={"curriculum": curriculum, "train": train})


def methods_of(levels: Collection[int]) -> list[Method]:
    """The rows of the table for a spectrum with these levels, baselines first (paper 3.2, 5.2)."""
    return [
        Method("ce", "none"),
        Method("ce-resampled", "real-only"),
        *([Method("text-only", "fixed", level=0)] if 0 in levels else []),
        *(Method(f"fixed-{level}", "fixed", level=level) for level in sorted(levels)),
        Method("all-level", "all-level"),
        Method("specific-to-diverse", "specific-to-diverse"),
        Method("diverse-to-specific", "diverse-to-specific"),
        Method("bs", "none", "balanced-softmax"),
        Method("bs-diverse-to-specific", "diverse-to-specific", "balanced-softmax"),
    ]


def compare_methods(config: RunConfig, seeds: Sequence[int], on_event: OnEvent | None = None) -> dict[str, Any]:
    """Train every method with every seed at equal optimizer steps; one compilation serves all.

    Returns {"methods": {name: {group: {"mean", "std"}}}} on the test split, fractions with the sample
    standard deviation; "val": the same on the validation split, for choices; "seeds"; "steps": per training;
    "trainings": a record of each; "seconds". Raises DisclError as `train` does.
    """
    began = time.perf_counter()
    table, store = load_data(config.data), Store(config.store.path)
    with cpu_threads(1):  # measured on a busy 2-core machine: 0.8 s of CPU per 150 steps, with two threads 4.9 s
        trainings = _trainings(config, table, store, seeds, on_event or ignore)
    steps = {record["steps"] for record in trainings}
    assert len(steps) == 1, f"methods took different numbers of steps: {steps}"
    return {
        "methods": summary(trainings, "test"),
        "val": summary(trainings, "val"),
        "seeds": list(seeds),
        "steps": steps.pop(),
        "trainings": trainings,
        "snapshot": store.snapshot(),
        "seconds": {"train every method": time.perf_counter() - began},
    }


def _trainings(
    config: RunConfig, table: DataTable, store: Store, seeds: Sequence[int], on_event: OnEvent
) -> list[dict[str, Any]]:
    """A record per method and seed, scores on the splits of real images among it."""
    learner = Learner(config.train.model, len(table.class_names), config.train.batch, device_of(config))
    judges = {name: judge(config, table, learner, name) for name in ("test", "val") if len(table.rows(name))}
    methods = methods_of(config.spectrum.levels)
    meter = Meter("train", len(methods) * len(seeds), on_event)
    records, known = [], {}
    for method, seed in itertools.product(methods, seeds):
        work = (method.policy, method.loss, method.level, seed)  # text-only and fixed-0 are one training
        if work not in known:
            known[work] = _train(method.configure(config, seed), learner, table, store)
            known[work] |= {split: measure() for split, measure in judges.items()}
        records.append({"method": method.name, "seed": seed, **known[work]})
        meter.advance()
    return records


def _train(config: RunConfig, learner: Learner, table: DataTable, store: Store) -> dict[str, Any]:
    """One training from fresh weights; steps, images seen and seconds."""
    began = time.perf_counter()
    learner.reset(config.train.seed, config.train.init)
    loader = training_loader(config, table, store)
    steps = fit(learner, loader, config.train)[-1]["steps"]
    images = sum(loader.sampler.plan(epoch).total for epoch in range(config.curriculum.epochs))
    return {"steps": steps, "images": images, "seconds": time.perf_counter() - began}


def summary(trainings: list[dict[str, Any]], split: str) -> dict[str, dict[str, dict[str, float]]]:
    """method -> group -> mean and sample standard deviation over the seeds (0 for one seed)."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name in dict.fromkeys(record["method"] for record in trainings):
        scores = [record[split] for record in trainings if record["method"] == name and split in record]
        groups = {group: [score[group] for score in scores if score[group] is not None] for group in GROUPS}
        table[name] = {group: _spread(values) for group, values in groups.items() if values}
    return table


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0}
