"""A level drawn uniformly for each epoch from (seed, epoch) (paper 3.2)."""

from discl._C import philox
from discl.policies.stage import Stage

POSITION = 2**61  # no sample of an epoch stands here, so no crop shares these random words


def random_level(stage: Stage) -> tuple[int, ...]:
    word = int(philox(stage.seed, stage.epoch, range(POSITION, POSITION + 1))[0, 0])
    return (stage.levels[word % len(stage.levels)],)
