"""Epoch records in, TensorBoard scalars out: loss, accuracies and seconds over optimizer steps."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

GROUPS = ("overall", "many", "medium", "few", "macro_f1")


class Scalars:
    """`write` one epoch's record of `fit` after another into `folder`; what comes again after a resume is shown once.

    Nothing happens where the package tensorboard is missing (`pip install discl[tensorboard]`).
    """

    def __init__(self, folder: Path):
        self.writer = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder))

    def write(self, record: dict[str, Any]) -> None:
        if self.writer:
            for name, value in _named(record).items():
                self.writer.add_scalar(name, value, record["steps"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def _named(record: dict[str, Any]) -> dict[str, float]:
    val = record.get("val", {})
    accuracies = {f"val/{group}": val[group] for group in GROUPS if val.get(group) is not None}
    return {"loss": record["loss"], **accuracies, **{f"seconds/{part}": s for part, s in record["spent"].items()}}
