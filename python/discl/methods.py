"""A filled store and a config come in; the result table goes out: every method, over training seeds."""

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from discl.config import RunConfig
from discl.cpu_threads import cpu_threads
from discl.data import DataTable, load_data
from discl.fitting import fit
from discl.learner import Learner
from discl.progress import Meter, OnEvent, ignore
from discl.store import Store
from discl.training import judge, learner_of, samples_seen, training_parts

GROUPS = ("overall", "many", "medium", "few", "macro_f1")


@dataclass(frozen=True)
class Method:
    """One row of the table: a curriculum policy and a loss; `level` belongs to the policy `fixed`.

    curriculum, train: further keys of these tables.
    """

    name: str
    policy: str
    loss: str = "ce"
    level: int | None = None
    curriculum: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)

    def configure(self, config: RunConfig, seed: int) -> RunConfig:
        """`config` with this method's policy and loss; all else, the number of steps too, stays as it is."""
        curriculum = {"policy": self.policy, "level": self.level, **self.curriculum}
        train = {"loss": self.loss, "seed": seed, **self.train}
        return config.model_copy(
            update={
                "curriculum": config.curriculum.model_copy(update=curriculum),
                "train": config.train.model_copy(update=train),
            }
        )

    @property
    def work(self) -> tuple:
        """What two methods share that are one training: text-only and fixed-0 are."""
        return self.policy, self.loss, self.level, *sorted(self.curriculum.items()), *sorted(self.train.items())


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


def further_methods(clip: str) -> list[Method]:
    """What the paper's tables hold besides: the other policies, CUDA, and FLYP with the CLIP `clip`."""
    flyp = {"model": f"clip:{clip}", "lr": 1e-4, "optimizer": "adamw", "weight_decay": 0.2}
    return [
        *(Method(policy, policy) for policy in ("random", "recursive", "shrink", "adaptive")),
        Method("bs-original", "diverse-to-specific", "balanced-softmax", train={"prior": "original"}),
        Method("ce-compensated", "none", train={"compensate": True}),
        Method("ce-cuda", "none", train={"augment": "cuda"}),
        Method("bs-cuda", "none", "balanced-softmax", train={"augment": "cuda"}),
        Method("flyp", "none", "flyp", train=flyp),
        Method("flyp-diverse-to-specific", "diverse-to-specific", "flyp", train=flyp),
    ]


def compare_methods(
    config: RunConfig,
    seeds: Sequence[int],
    on_event: OnEvent | None = None,
    methods: Sequence[Method] | None = None,
) -> dict[str, Any]:
    """Train every method (default: those of the spectrum's levels) with every seed at equal optimizer steps.

    Returns {"methods": {name: {group: {"mean", "std"}}}} on the test split, fractions with the sample
    standard deviation; "splits": the same for every held-out split; "val": on the validation split, for choices;
    "seeds"; "steps": per training, without adaptive's passes over real images, which "images" of a record counts;
    "trainings": a record of each; "seconds". One compilation serves all of one network. Raises DisclError as `train`
    does.
    """
    began = time.perf_counter()
    table, store = load_data(config.data), Store(config.store.path)
    methods = methods_of(config.spectrum.levels) if methods is None else methods
    with cpu_threads(1):  # measured on a busy 2-core machine: 0.8 s of CPU per 150 steps, with two threads 4.9 s
        trainings = _trainings(config, table, store, methods, seeds, on_event or ignore)
    steps = {record["steps"] for record in trainings}
    assert len(steps) == 1, f"methods took different numbers of steps: {steps}"
    return {
        "methods": summary(trainings, "test"),
        "val": summary(trainings, table.selection_split or "val"),
        "splits": {split: summary(trainings, split) for split in table.held_out},
        "seeds": list(seeds),
        "steps": steps.pop(),
        "trainings": trainings,
        "snapshot": store.snapshot(),
        "seconds": {"train every method": time.perf_counter() - began},
    }


def _trainings(
    config: RunConfig,
    table: DataTable,
    store: Store,
    methods: Sequence[Method],
    seeds: Sequence[int],
    on_event: OnEvent,
) -> list[dict[str, Any]]:
    """A record per method and seed, scores on the splits of real images among it."""
    learners: dict[tuple, Learner] = {}
    judges: dict[tuple, dict[str, Callable[[], dict]]] = {}  # they hold the decoded images
    meter = Meter("train", len(methods) * len(seeds), on_event)
    records, known = [], {}
    for method, seed in itertools.product(methods, seeds):
        work = (*method.work, seed)
        if work not in known:
            own = method.configure(config, seed)
            network = (own.train.model, own.train.loss == "flyp")
            if network not in learners:
                learners[network] = learner_of(own, table)
            known[work] = _train(own, learners[network], table, store)
            measured = (*network, own.train.compensate)
            if measured not in judges:
                judges[measured] = {split: judge(own, table, learners[network], split) for split in table.held_out}
            known[work] |= {split: measure() for split, measure in judges[measured].items()}
        records.append({"method": method.name, "seed": seed, **known[work]})
        meter.advance()
    return records


def _train(config: RunConfig, learner: Learner, table: DataTable, store: Store) -> dict[str, Any]:
    """One training from fresh weights; steps, images seen, seconds and the levels of every epoch."""
    began = time.perf_counter()
    learner.reset(config.train.seed, config.train.init)
    loader, stage = training_parts(config, table, store, "default", learner)
    history = fit(learner, loader, config.train, stage=stage)
    spent = time.perf_counter() - began
    levels = [record["levels"] for record in history]
    images = samples_seen(loader.sampler, history)
    return {"steps": history[-1]["steps"], "images": images, "seconds": spent, "levels": levels}


def summary(trainings: list[dict[str, Any]], split: str) -> dict[str, dict[str, dict[str, float]]]:
    """method -> group -> mean and sample standard deviation over the seeds (0 for one seed)."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name in dict.fromkeys(record["method"] for record in trainings):
        scores = [record[split] for record in trainings if record["method"] == name and split in record]
        groups = {group: [score[group] for score in scores if score.get(group) is not None] for group in GROUPS}
        table[name] = {group: _spread(values) for group, values in groups.items() if values}
    return table


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0}
