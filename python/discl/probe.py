"""The probe of the policy `adaptive` (paper 3.3, Algorithm 2): what one pass over real images gains at each level.

Some hard images leave the training, with all their synthetic ones, and are looked at instead: at every level one image
of each, at 100 themselves. A level's progress is the mean change of their true-class probability.
"""

import logging
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from discl._C import Order
from discl.data.reference import training_row
from discl.dataset import SpectrumDataset
from discl.errors import StoreError
from discl.evaluation import evaluation_batches, interleaved, true_class
from discl.labels import labeller

log = logging.getLogger(__name__)

SHARE = 4  # one in so many hard images with all levels may be taken out of training


@dataclass(frozen=True)
class ProbeSet:
    """rows: of the table. keys: one accepted sample per row and level. lost: all keys of these images."""

    rows: np.ndarray
    keys: list[str]
    lost: frozenset[str]


@dataclass
class Spectrum:
    """What was made of one training image. rows: the table's that hold its bytes. keys: by level."""

    rows: list[int]
    keys: dict[int, list[str]]


def choose_probe(table, store, keys: list[str], levels, most: int, seed: int) -> ProbeSet:
    """Training images with an accepted sample at every level, at most `most` and a quarter of them, by `seed`.

    Every class keeps a training image. Rows with the same bytes leave together. Raises StoreError where there is no
    image to look at.
    """
    made = _spectra(table, store, set(keys))
    if not made:
        raise StoreError(
            "curriculum.policy = 'adaptive' looks at training images whose spectra are selected, and no selected image "
            f"of {store.name} names a training image of the data as its source; use the data that the store was made "
            "of, or another policy"
        )
    whole = [spectrum for spectrum in made if set(levels) <= set(spectrum.keys)]
    random = np.random.default_rng([seed, 2**31])
    room = table.train_counts.copy()
    chosen: list[Spectrum] = []
    for number in random.permutation(len(whole)).tolist():
        rows = whole[number].rows
        if len(chosen) == min(most, max(len(whole) // SHARE, 1)):
            break
        if room[table.labels[rows[0]]] > len(rows):
            room[table.labels[rows[0]]] -= len(rows)
            chosen.append(whole[number])
    if not chosen:
        raise StoreError(_nothing_to_probe(len(made), len(whole), levels))
    if len(chosen) < most:
        log.warning(
            "curriculum.probe_images = %d, but the probe has %d: of the %d training images with a selected image at "
            "every level, a quarter at most leaves the training", most, len(chosen), len(whole),
        )  # fmt: skip
    candidates = (one.keys[level] for one in chosen for level in sorted(levels))
    picked = [keys[random.integers(len(keys))] for keys in candidates]
    rows = sorted(row for one in chosen for row in one.rows)
    lost = (key for one in chosen for of_level in one.keys.values() for key in of_level)
    return ProbeSet(np.array(rows, dtype=np.int64), picked, frozenset(lost))


def _spectra(table, store, wanted: set[str]) -> list[Spectrum]:
    """Of the training images that the store's `wanted` keys were made of, in the order of their ids."""
    row_of, labels_of = training_row(table), labeller(table.class_names)
    made: dict[int, Spectrum] = {}
    for batch in store.scan(["key", "source_id", "source_ids", "level", "class_id", "class_name"]):
        for one, label in zip(batch.to_pylist(), labels_of(batch).tolist(), strict=True):
            row = row_of(one["source_id"] or "", label) if one["key"] in wanted else None
            if row is not None:
                others = (row_of(name, label) for name in one["source_ids"] or ())
                rows = {row, *(other for other in others if other is not None)}
                spectrum = made.setdefault(row, Spectrum(sorted(rows), {}))
                spectrum.keys.setdefault(one["level"], []).append(one["key"])
    return [made[row] for row in sorted(made, key=lambda row: table.ids[row])]


def _nothing_to_probe(made: int, whole: int, levels) -> str:
    if whole:
        return (
            f"curriculum.policy = 'adaptive' would take a class's last training image out of training: all {whole} "
            "images with a whole spectrum are the only ones of their classes; use another policy"
        )
    return (
        f"curriculum.policy = 'adaptive' needs training images with a selected image at each of the levels "
        f"{', '.join(map(str, sorted(levels)))}, and none of the {made} that have any has all; lower score.threshold, "
        "raise spectrum.retries, or name fewer spectrum.levels"
    )


class RealDraw:
    """`size` real rows of a dataset per epoch, all different, by (seed, epoch): the sampler of the probe's training."""

    def __init__(self, dataset, size: int, batch: int, seed: int, rank: int = 0, world: int = 1):
        self.total, self.batch, self.seed = min(size, dataset.n_real), batch, seed
        self.dataset, self.n_real, self.rank, self.world = dataset, dataset.n_real, rank, world
        self.epoch = self.step = 0

    def __len__(self) -> int:
        return -(-self.total // self.batch)

    levels = ()

    def plan(self, epoch: int) -> "RealDraw":
        """Itself: every epoch has `total` images and no levels."""
        return self

    def _order(self, epoch: int) -> Order:
        return Order([([range(self.n_real)], self.total, None)], self.seed ^ 0x5EED, epoch)

    def class_counts(self, epoch: int) -> np.ndarray:
        """float64 [C]: of the images that `epoch` draws."""
        labels = self.dataset.labels[self._order(epoch).ids(0, self.total, 0, 1)]
        return np.bincount(labels, minlength=len(self.dataset.class_names)).astype(np.float64)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        return self._order(epoch).ids(step * self.batch, self.batch, self.rank, self.world)

    def positions(self, epoch: int, step: int) -> np.ndarray:
        end = min((step + 1) * self.batch, self.total)
        return np.arange(step * self.batch + (self.rank - step * self.batch) % self.world, end, self.world)

    def advance(self) -> None:
        self.epoch, self.step = divmod(self.epoch * len(self) + self.step + 1, len(self))

    def state_dict(self) -> dict:
        return {}


class Probe:
    """Before each curriculum epoch of a Training: measure, train on real images once, measure, tell the sampler.

    config: CurriculumConfig. real: a loader of RealDraw. test: the view for measuring.
    """

    def __init__(self, config, probe: ProbeSet, table, store, real, test, threads: int, ranks):
        self.config, self.real, self.ranks = config, real, ranks
        if len(probe.rows) < config.probe_least:
            log.warning(
                "%d probe images are fewer than curriculum.probe_least = %d: no gain is trusted and the lowest level "
                "stays; lower probe_least, or make spectra of more images", len(probe.rows), config.probe_least,
            )  # fmt: skip
        self.dataset = SpectrumDataset(store, table.take(probe.rows), probe.keys)
        self.batches = evaluation_batches(self.dataset, test, 256, threads, ranks)

    def __call__(self, training, epoch: int) -> dict:
        """What was seen: gains by level and the images it took. Trains `training`'s model."""
        sampler = training.sampler
        if epoch >= sampler.curriculum.epochs:
            return {}
        before = self.probabilities(training.learner)
        self.real.sampler.epoch, self.real.sampler.step = epoch, 0
        training.pass_over(self.real)
        change = self.probabilities(training.learner) - before
        gains = {}
        for level in sorted({int(level) for level in self.dataset.levels}):
            gain = progress(change[self.dataset.levels == level], self.config)
            if gain is not None:
                old = sampler.progress.get(level, gain)
                gains[level] = (1 - self.config.probe_memory) * gain + self.config.probe_memory * old
                sampler.observe(level, 0.0, gains[level])
        return {"gains": {str(level): gain for level, gain in gains.items()}, "probed": self.real.sampler.total}

    def probabilities(self, learner) -> np.ndarray:
        """float64 [n]: of every probe image's true class."""
        return interleaved(self.ranks.gather(true_class(learner, self.batches)))


def progress(change: np.ndarray, config) -> float | None:
    """A level's gain from its images' changes, float64 [n]: their mean without outliers, or its lower bound.

    Outliers lie more than 1.5 interquartile ranges outside the quartiles. None for fewer than `probe_least` images.
    """
    if len(change) < config.probe_least:
        return None
    low, high = np.quantile(change, [0.25, 0.75])
    kept = change[(change >= low - 1.5 * (high - low)) & (change <= high + 1.5 * (high - low))]
    if not config.probe_confidence or len(kept) < 2:
        return float(kept.mean())
    return float(kept.mean() - NormalDist().inv_cdf(config.probe_confidence) * kept.std(ddof=1) / np.sqrt(len(kept)))
