"""A training run's folder and a table in, how sure its classifier is of every training image out (paper 1.8)."""

from pathlib import Path

import numpy as np

from discl.data.table import DataTable
from discl.trained import open_trained

AT_ONCE = 256  # images in one forward pass


def scores(run: str | Path, table: DataTable) -> dict[str, np.ndarray]:
    """float64 [N] each: the true class's probability and its negative logarithm; nan for rows of other splits.

    `run` is what `discl train` left. Raises what `open_trained` does.
    """
    from discl.dataset import SpectrumDataset
    from discl.evaluation import evaluation_batches, true_class

    trained = open_trained(run, "hard.run", table.class_names)
    batches = evaluation_batches(SpectrumDataset(None, table), trained.view, AT_ONCE, trained.workers)
    confidence = np.full(len(table), np.nan)
    confidence[table.rows("train")] = true_class(trained.learner, batches)
    return {"confidence": confidence, "loss": -np.log(np.maximum(confidence, 1e-12))}
