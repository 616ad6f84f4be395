"""The equivalence gate (design 3.1): a lever's store against the exact float32 store of the same requests.

No lever's speed is published without what it does to scores, verdicts, pixels and the classifier.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from discl import Store
from discl.config import RunConfig
from discl.cpu_threads import cpu_threads
from discl.data import load_data
from discl.fitting import Learner, fit
from discl.training import device_of, judge, training_loader

Wish = tuple[str, int, int]  # source id, level, seed


class Verdict(NamedTuple):
    """One sample as the judge saw it: text score (None where it was rejected early or failed) and verdict."""

    key: str
    score: float | None
    accepted: bool


def gate(exact: Store, lever: Store, levels: Sequence[int] | None = None) -> dict:
    """Per level (all, or these) and over all: mean and largest shift of the text score, share of flipped verdicts, PSNR
    in dB.

    Shifts and PSNR are over samples that both stores scored and kept; a sample that the lever rejected early counts
    as rejected. Raises ValueError where the stores do not hold the same wishes.
    """
    ours, theirs = verdicts(lever), verdicts(exact)
    theirs = {wish: verdict for wish, verdict in theirs.items() if levels is None or wish[1] in levels}
    if ours.keys() != theirs.keys():
        raise ValueError(f"the stores differ in {len(ours.keys() ^ theirs.keys())} wishes: same images, levels, seeds?")
    levels = sorted({level for _, level, _ in theirs})
    groups = {str(level): [wish for wish in theirs if wish[1] == level] for level in levels} | {"all": list(theirs)}
    return {name: _compare(wishes, ours, theirs, lever, exact) for name, wishes in groups.items()}


def verdicts(store: Store) -> dict[Wish, Verdict]:
    """What the selection `default` says of every wish; of several attempts the selected one, else the first."""
    accepted = set(store.selection("default"))
    columns = ["key", "source_id", "level", "seed", "retry", "text_score"]
    rows = sorted(store.table.select(columns).to_pylist(), key=lambda row: (row["key"] not in accepted, row["retry"]))
    found: dict[Wish, Verdict] = {}
    for row in rows:
        wish = row["source_id"], row["level"], row["seed"]
        found.setdefault(wish, Verdict(row["key"], row["text_score"], row["key"] in accepted))
    return found


def _compare(wishes: Iterable[Wish], ours: dict, theirs: dict, lever: Store, exact: Store) -> dict:
    pairs = [(ours[wish], theirs[wish]) for wish in wishes]
    shifts = [mine.score - other.score for mine, other in pairs if None not in (mine.score, other.score)]
    decibels = [
        psnr(lever.image(mine.key), exact.image(other.key))
        for mine, other in pairs
        if None not in (mine.score, other.score)
    ]
    return {
        "samples": len(pairs),
        "score_shift_mean": _round(np.mean(shifts)),
        "score_shift_max": _round(np.abs(shifts).max()),
        "flips": _round(np.mean([mine.accepted != other.accepted for mine, other in pairs])),
        "accepted": _round(np.mean([mine.accepted for mine, _ in pairs])),
        "psnr_median": _round(np.median(decibels)),
    }


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; infinite for equal ones."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def few_class_accuracy(config: RunConfig, seeds: Sequence[int], make: Callable = Learner) -> list[float]:
    """Top-1 on the few classes of the test split after training on the config's store, one number per seed."""
    table, store = load_data(config.data), Store(config.store.path)
    scores = []
    with cpu_threads(1):
        learner = make(config.train.model, len(table.class_names), config.train.batch, device_of(config))
        measure = judge(config, table, learner, "test")
        for seed in seeds:
            seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            learner.reset(seed, config.train.init)
            fit(learner, training_loader(seeded, table, store), seeded.train)
            scores.append(measure()["few"])
    return scores


def _round(value: float) -> float:
    return round(float(value), 5)
