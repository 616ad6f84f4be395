"""A training run's folder in, the metrics of the weights that count on every held-out split out."""

from pathlib import Path
from typing import Any

from discl.config import RunConfig
from discl.data import load_data
from discl.errors import DataError, ModelError
from discl.kept import counting_weights
from discl.training import judge, learner_of


def evaluate_run(config: RunConfig, out: Path) -> dict[str, Any]:
    """{"val" | "test": metrics}. ModelError without a checkpoint in `out`, DataError without a held-out split."""
    weights = counting_weights(out)
    if not weights.is_file():
        raise ModelError(f"{weights}: there is no checkpoint; give --out a folder that discl train made")
    table = load_data(config.data)
    splits = table.held_out
    if not splits:
        raise DataError(f"data.root = {config.data.root}: no val or test split to evaluate on; add one")
    learner = learner_of(config, table)
    learner.reset(config.train.seed, str(weights))
    return {split: judge(config, table, learner, split)() for split in splits}
