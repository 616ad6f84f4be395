"""A dataset and a curriculum become batches of row numbers: a pure function of (seed, epoch, position)."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from discl._C import order
from discl.curriculum import Curriculum, EpochPlan
from discl.errors import ConfigError


class CurriculumSampler(Sampler):
    """Batch sampler: iterating yields the rest of the current epoch as lists of dataset rows.

    dataset: SpectrumDataset. curriculum: CurriculumConfig. batch: images per step over all ranks, of which
    this rank gets its part; the global batch is the same for every world size, the last may be smaller.
    levels: the spectrum's (default: those in the dataset). Raises ConfigError where ranks do not divide it.

    A rank without rows in the last, smaller batch does not get an empty list: its epoch ends one batch earlier
    than `len`, which counts the steps of all ranks. DistributedDataParallel's `join` evens that out.
    """

    def __init__(self, dataset, curriculum, batch: int, seed: int, rank: int = 0, world: int = 1, levels=None):
        if batch % world:
            raise ConfigError(f"train.batch = {batch} cannot be split evenly over {world} ranks; use a multiple")
        self.curriculum = Curriculum(dataset, curriculum, seed, levels)
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        self.epochs = curriculum.epochs
        self.epoch = self.step = 0  # of the batch that comes next
        self._progress: dict[int, float] = {}  # level -> gain, as last observed
        self._frozen: dict[int, dict[int, float]] = {}  # epoch -> the gains its plan was made with
        self._plan: EpochPlan | None = None

    def __len__(self) -> int:
        """Steps of one epoch; the same for every epoch."""
        return -(-self.plan(self.epoch).total // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        while self.step < len(self):
            rows = self.rows(self.epoch, self.step).tolist()
            self.advance()
            if rows:
                yield rows
            if not self.step:
                return

    def plan(self, epoch: int) -> EpochPlan:
        """The pools of `epoch`; what was observed before its plan is first asked for is frozen into it."""
        if self._plan is None or self._plan.epoch != epoch:
            gains = self._frozen.setdefault(epoch, dict(self._progress))
            self._plan = self.curriculum.epoch_plan(epoch, gains)
        return self._plan

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """int64 dataset rows of this rank in one global batch. Pure: nothing advances."""
        pools = [(pool.ids, pool.quota) for pool in self.plan(epoch).pools]
        return order(pools, self.seed, epoch, step * self.batch, self.batch, self.rank, self.world)

    def positions(self, epoch: int, step: int) -> np.ndarray:
        """int64 positions in the epoch of the same rows: what augmentation is drawn from."""
        end = min((step + 1) * self.batch, self.plan(epoch).total)
        return np.arange(step * self.batch + (self.rank - step * self.batch) % self.world, end, self.world)

    def class_counts(self, epoch: int) -> np.ndarray:
        """float64 [C]: how many images of each class the epoch holds, in expectation."""
        dataset = self.curriculum.dataset
        classes = len(dataset.class_names)
        counts = np.zeros(classes)
        for pool in self.plan(epoch).pools:
            counts += np.bincount(dataset.labels[pool.ids], minlength=classes) * (pool.quota / len(pool.ids))
        return counts

    def advance(self) -> None:
        """Count one batch as consumed."""
        self.step += 1
        if self.step == len(self):
            self.epoch, self.step = self.epoch + 1, 0
            self._frozen = {epoch: gains for epoch, gains in self._frozen.items() if epoch >= self.epoch - 1}

    def observe(self, level: int, p_before: float, p_after: float) -> None:
        """Tell the adaptive policy the mean true-class probability at a level before and after a probe.

        It counts for the first epoch whose plan has not been asked for, and until it is observed again.
        """
        self._progress[int(level)] = float(p_after) - float(p_before)

    def state_dict(self, consumed: int | None = None, epoch: int | None = None) -> dict:
        """JSON-able: the position in the order, and the observations that shape it.

        The position counts the batches that this sampler has given out. Discl's loaders count each when it is
        consumed; a torch DataLoader with workers asks ahead, so there count yourself: with `consumed` it is the
        state after so many batches of `epoch`, the current one (default) or the one before it.
        """
        epoch = self.epoch if epoch is None else epoch
        full, step = divmod(self.step if consumed is None else consumed, len(self))
        return {
            "epoch": epoch + full,
            "step": step,
            "seed": self.seed,
            "batch": self.batch,
            "progress": sorted(self._progress.items()),
            "frozen": sorted((epoch, sorted(gains.items())) for epoch, gains in self._frozen.items() if gains),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` stands. Raises ConfigError if seed or batch differ, as the order would."""
        for name in ("seed", "batch"):
            if state[name] != getattr(self, name):
                raise ConfigError(
                    f"the checkpoint was made with train.{name} = {state[name]}; "
                    f"resume with that value instead of {getattr(self, name)}"
                )
        self.epoch, self.step = state["epoch"], state["step"]
        self._progress = dict(map(tuple, state["progress"]))
        self._frozen = {epoch: dict(map(tuple, gains)) for epoch, gains in state["frozen"]}
        self._plan = None


class InOrder:
    """Every row once per epoch, in order: the sampler of evaluations."""

    seed = 0

    def __init__(self, dataset, batch: int):
        self.count, self.batch = len(dataset), batch
        self.epoch = self.step = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        return np.arange(step * self.batch, min((step + 1) * self.batch, self.count), dtype=np.int64)

    positions = rows

    def advance(self) -> None:
        self.epoch, self.step = divmod(self.epoch * len(self) + self.step + 1, len(self))
