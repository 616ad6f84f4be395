"""A training run's folder and a table in, how sure its classifier is of every training image out (paper 1.8)."""

from pathlib import Path

import numpy as np

from discl.config import load_config
from discl.data.table import DataTable
from discl.errors import ConfigError
from discl.hard import finished


def scores(run: str | Path, table: DataTable) -> dict[str, np.ndarray]:
    """float64 [N] each: the true class's probability and its negative logarithm; nan for rows of other splits.

    `run` is what `discl train` left. Raises ConfigError where it has not finished or knows other classes.
    """
    from discl.classifier import recipe_of
    from discl.dataset import SpectrumDataset
    from discl.evaluation import evaluation_batches, true_class
    from discl.kept import counting_weights
    from discl.training import learner_of, sized

    run = Path(run)
    if not finished(run):
        raise ConfigError(f"hard.run = {run}: no finished training; give a folder that `discl train` made")
    config = load_config(run / "config.toml")
    learner = learner_of(config, table)
    learner.reset(0, str(counting_weights(run)))
    dataset = SpectrumDataset(None, table)
    view = sized(recipe_of(config.train.model).test, config.train.image_size)
    sure = true_class(learner, evaluation_batches(dataset, view, 256, config.train.workers))
    confidence = np.full(len(table), np.nan)
    confidence[table.rows("train")] = sure
    return {"confidence": confidence, "loss": -np.log(np.maximum(confidence, 1e-12))}
