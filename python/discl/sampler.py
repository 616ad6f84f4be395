"""A dataset and a curriculum become batches of row numbers: a pure function of (seed, epoch, position)."""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from torch.utils.data import Sampler

from discl._C import Order
from discl.curriculum import Curriculum, EpochPlan
from discl.errors import ConfigError
from discl.feedback import Feedback, frozen_weights
from discl.given import check_has, shown

OF_DATASET = ("class_names", "labels", "levels", "is_synth", "tail", "n_real")
OF_CURRICULUM = ("policy", "epochs", "curriculum_epochs", "tail_share", "nontail_share", "synthetic_scale")


class CurriculumSampler(Sampler):
    """Batch sampler: iterating yields the rest of the current epoch as lists of dataset rows.

    dataset: SpectrumDataset. curriculum: CurriculumConfig. batch: images per step over all ranks, of which
    this rank gets its part; the global batch is the same for every world size, the last may be smaller.
    levels: the spectrum's (default: those in the dataset). Raises ConfigError for an argument of the wrong kind and
    where ranks do not divide the batch.

    A rank without rows in the last, smaller batch does not get an empty list: its epoch ends one batch earlier
    than `len`, which counts the steps of all ranks. DistributedDataParallel's `join` evens that out.

    `observe`, `set_class_levels` and `set_weights` steer it from any training loop. What they say counts from
    the first epoch whose plan has not been asked for, stays until it is said again, and is part of the state.
    """

    def __init__(self, dataset, curriculum, batch: int, seed: int, rank: int = 0, world: int = 1, levels=None):
        check_has("CurriculumSampler", "dataset", dataset, OF_DATASET, "give a discl.SpectrumDataset")
        check_has("CurriculumSampler", "curriculum", curriculum, OF_CURRICULUM, "give load_config(file).curriculum")
        if levels is not None:
            levels = _levels(levels)
        batch, world = _whole("batch", batch, 1), _whole("world", world, 1)
        seed, rank = _whole("seed", seed, 0, 2**64), _whole("rank", rank, 0, world)
        if batch % world:
            raise ConfigError(f"train.batch = {batch} cannot be split evenly over {world} ranks; use a multiple")
        self.dataset = dataset
        self.curriculum = Curriculum(dataset, curriculum, seed, levels)
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        self.epochs = curriculum.epochs
        self.epoch = self.step = 0  # of the batch that comes next
        self._feedback = Feedback()
        self._frozen: dict[int, Feedback] = {}  # epoch -> what its plan was made with
        self._plan: EpochPlan | None = None
        self._order: Order | None = None

    def __len__(self) -> int:
        """Steps of one epoch; the same for every epoch."""
        return -(-self.curriculum.total // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        while self.step < len(self):
            rows = self.rows(self.epoch, self.step).tolist()
            self.advance()
            if rows:
                yield rows
            if not self.step:
                return

    def plan(self, epoch: int) -> EpochPlan:
        """The pools of `epoch`; what was said before its plan is first asked for is frozen into it."""
        if self._plan is None or self._plan.epoch != epoch:
            told = self._frozen.setdefault(epoch, self._feedback)
            self._plan = self.curriculum.epoch_plan(epoch, told.progress, told.class_levels, told.weights)
            self._order = None
        return self._plan

    def order(self, epoch: int) -> Order:
        """Positions of `epoch` to rows."""
        plan = self.plan(epoch)
        if self._order is None:
            pools = [(pool.ids.segments, pool.quota, pool.weights) for pool in plan.pools]
            try:
                self._order = Order(pools, self.seed, epoch)
            except ValueError as error:
                names = ", ".join(f"{number} is {pool.name}" for number, pool in enumerate(plan.pools))
                raise ConfigError(f"epoch {epoch} cannot be drawn: {error} (pools: {names})") from error
        return self._order

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """int64 dataset rows of this rank in one global batch. Pure: nothing advances."""
        return self.order(epoch).ids(step * self.batch, self.batch, self.rank, self.world)

    def positions(self, epoch: int, step: int) -> np.ndarray:
        """int64 positions in the epoch of the same rows: what augmentation is drawn from."""
        end = min((step + 1) * self.batch, self.plan(epoch).total)
        return np.arange(step * self.batch + (self.rank - step * self.batch) % self.world, end, self.world)

    def class_counts(self, epoch: int) -> np.ndarray:
        """float64 [C]: how many images of each class the epoch holds, in expectation."""
        return self.curriculum.class_counts(self.plan(epoch))

    def advance(self) -> None:
        """Count one batch as consumed."""
        self.step += 1
        if self.step == len(self):
            self.epoch, self.step = self.epoch + 1, 0
            self._frozen = {epoch: told for epoch, told in self._frozen.items() if epoch >= self.epoch - 1}

    @property
    def progress(self) -> Mapping[int, float]:
        """What `observe` was told last, level by level."""
        return self._feedback.progress

    def observe(self, level: int, p_before: float, p_after: float) -> None:
        """Tell the adaptive policy the mean true-class probability at a level before and after a probe.

        Raises ConfigError for a probability that is not finite: no gain could be compared with it.
        """
        level = _whole("level", level, 0, 101, call="observe")
        try:
            gain = float(p_after) - float(p_before)
        except (TypeError, ValueError):
            gain = math.nan
        if not math.isfinite(gain):
            raise ConfigError(f"observe({level}, {p_before}, {p_after}): give two probabilities, both finite")
        self._feedback = replace(self._feedback, progress={**self._feedback.progress, level: gain})

    def set_class_levels(self, levels: Mapping[int, int | Iterable[int]]) -> None:
        """Class -> its own level or levels in curriculum epochs, instead of the policy's; 100: real images only.

        An accuracy probe that raises and lowers a level per class (CUDA, ICLR 2023) is a loop around this.
        """
        classes, known = self.curriculum.classes, {*self.curriculum.levels, 100}
        try:
            chosen = {
                int(label): (int(of),) if isinstance(of, (int, np.integer)) else tuple(sorted(map(int, of)))
                for label, of in levels.items()
            }
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(
                f"set_class_levels({shown(levels)}): give class -> level or levels, such as {{0: 30, 1: [10, 30]}}"
            ) from None
        for label, some in chosen.items():
            if not 0 <= label < classes or not known.issuperset(some):
                raise ConfigError(
                    f"class {label} at levels {list(some)}; classes are 0..{classes - 1}, levels {sorted(known)}"
                )
        self._feedback = replace(self._feedback, class_levels=chosen)

    def set_weights(self, weights) -> None:
        """Draw the rows of every pool in proportion to these, one per dataset row (float, copied); None: evenly.

        A row then comes quota * weight / sum(weights of its pool) times an epoch in expectation. For weights that
        a training learns per sample (DoCL, AISTATS 2021).
        """
        kept = None if weights is None else frozen_weights(weights, len(self.dataset.labels))
        self._feedback = replace(self._feedback, weights=kept)

    def state_dict(self, consumed: int | None = None, epoch: int | None = None) -> dict:
        """JSON-able: the position in the order, and what was said that shapes it.

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
            "images": getattr(self.dataset, "digest", None),
            "feedback": self._feedback.state,
            "frozen": [[epoch, told.state] for epoch, told in sorted(self._frozen.items())],
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` stands. Raises ConfigError if seed, batch or images differ, as the order would."""
        absent = sorted(self.state_dict().keys() - set(state)) if isinstance(state, Mapping) else ["all of it"]
        if absent:
            raise ConfigError(
                f"this is no state of a CurriculumSampler: it lacks {', '.join(absent)}; give state_dict()'s"
            )
        for name in ("seed", "batch"):
            if state[name] != getattr(self, name):
                raise ConfigError(
                    f"the checkpoint was made with train.{name} = {state[name]}; "
                    f"resume with that value instead of {getattr(self, name)}"
                )
        if state["images"] != getattr(self.dataset, "digest", None):
            raise ConfigError(
                "the checkpoint was made with other images; resume with the same data and selection, and with "
                "Store(path, at=snapshot) where the store has grown"
            )
        call = "CurriculumSampler.load_state_dict"
        epoch = _whole("epoch", state["epoch"], 0, call=call)
        step = _whole("step", state["step"], 0, len(self), call=call)
        try:
            feedback = Feedback.of(state["feedback"])
            frozen = {_whole("frozen", at, 0, call=call): Feedback.of(told) for at, told in state["frozen"]}
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ConfigError(
                f"this is no state of a CurriculumSampler: what was observed cannot be read ({error!r}); "
                "give state_dict()'s"
            ) from error
        self.epoch, self.step, self._feedback, self._frozen = epoch, step, feedback, frozen
        self._plan = self._order = None


def _whole(name: str, value, least: int, below: int | None = None, call: str = "CurriculumSampler") -> int:
    """Python's own int, which JSON takes, of any integer in [least, below)."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (below is not None and value >= below):
        span = f"of at least {least}" if below is None else f"from {least} to {below - 1}"
        raise ConfigError(f"{call}({name}={shown(value)}): give a whole number {span}")
    return int(value)


def _levels(given) -> tuple[int, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"CurriculumSampler(levels={shown(given)}): give image-guidance levels, such as [0, 30, 50]")
    return tuple(_whole("levels", level, 0, 101) for level in given)


class InOrder:
    """Every row once per epoch, in order, each by one of the ranks: the sampler of evaluations."""

    seed = 0

    def __init__(self, dataset, batch: int, rank: int = 0, world: int = 1):
        self.count, self.batch, self.rank, self.world = len(dataset), batch, rank, world
        self.epoch = self.step = 0

    def __len__(self) -> int:
        return -(-len(range(self.rank, self.count, self.world)) // self.batch)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        mine = range(self.rank, self.count, self.world)[step * self.batch : (step + 1) * self.batch]
        return np.arange(mine.start, mine.stop, mine.step, dtype=np.int64)

    positions = rows

    def advance(self) -> None:
        self.epoch, self.step = divmod(self.epoch * len(self) + self.step + 1, len(self))
