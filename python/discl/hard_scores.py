"""A training run's folder and a table in, how sure its classifier is of every training image out (paper 1.8).

What was found is kept beside the run, RUN/hard/*.npy, for this classifier and these images: a generation that is
started again, or the training after it, looks at no image anew.
"""

import io
import logging
from pathlib import Path

import numpy as np

from discl.atomic import write_atomic
from discl.data.table import DataTable
from discl.engine.pretrained.digest import combined, file_digest
from discl.kept import counting_weights
from discl.trained import open_trained, refuse_unfinished

log = logging.getLogger(__name__)

AT_ONCE = 256  # images in one forward pass
ASKED = "hard.run"


def scores(run: str | Path, table: DataTable) -> dict[str, np.ndarray]:
    """float64 [N] each: the true class's probability and its negative logarithm; nan for rows of other splits.

    `run` is what `discl train` left. Raises what `open_trained` does.
    """
    refuse_unfinished(run, ASKED)
    rows, file = table.rows("train"), Path(run) / "hard" / f"{_key(Path(run), table)}.npy"
    found = _read(file, len(rows))
    if found is None:
        found = _inferred(run, table)
        _write(file, found)
    confidence = np.full(len(table), np.nan)
    confidence[rows] = found
    return {"confidence": confidence, "loss": -np.log(np.maximum(confidence, 1e-12))}


def _inferred(run: str | Path, table: DataTable) -> np.ndarray:
    """float64 [training rows]"""
    from discl.dataset import SpectrumDataset
    from discl.evaluation import evaluation_batches, true_class

    trained = open_trained(run, ASKED, table.class_names)
    batches = evaluation_batches(SpectrumDataset(None, table), trained.view, AT_ONCE, trained.workers)
    return true_class(trained.learner, batches)


def _key(run: Path, table: DataTable) -> str:
    """Of the weights and the config that say how they are used, and of the images: 32 hex characters."""
    weights = counting_weights(run)
    model = [(file.name, file_digest(file)) for file in (run / "config.toml", weights) if file.is_file()]
    images = ((table.ids[row], table.labels[row], *_state(table, row)) for row in table.rows("train").tolist())
    return combined([*model, table.class_names, *images])


def _state(table: DataTable, row: int) -> tuple:
    """What changes when an image does, without reading it."""
    if table.packed:
        return tuple(table.packed.store.keys_at(table.packed.rows[[row]]))  # named by the bytes
    try:
        status = Path(table.paths[row]).stat()
    except OSError:
        return ("absent",)
    return status.st_size, status.st_mtime_ns


def _read(file: Path, count: int) -> np.ndarray | None:
    """What was kept, if it is whole."""
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(found, np.ndarray) and found.shape == (count,) and found.dtype == np.float64
    return found if whole else None


def _write(file: Path, found: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, found, allow_pickle=False)
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, buffer.getvalue())
    except OSError as error:  # another's run, say: it can be read and not written
        log.info("%s cannot be kept (%s): the next call will look at the images again", file, error.strerror)
