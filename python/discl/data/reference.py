"""The tables of the paper's code (paper.md 9) in, the columns of our own out: path, label, class_name, caption.

Three kinds, told by their header: the generation inputs of ImageNet-LT and of iWildCam, and the training table.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from discl.data.columns import Columns
from discl.data.table import DataTable
from discl.errors import DataError

IMAGENET = {"filepath": "path", "classname": "class_name"}
WILDCAM = {"filepath": "path", "label id": "label", "label name": "class_name"}
TRAINING = {"filepath": "path", "title": "caption"}
REAL = "100"  # guidance of a real image


def labels_by_name(class_names: Sequence[str]) -> dict[str, int]:
    """Class name -> label. A name that `discl store import` read off a folder of the paper's code is known too: there
    blanks are underscores and / is "or", which is read as blanks; one that fits several classes is not."""
    spelt = [name.replace("_", " ").replace("/", "or") for name in class_names]
    occurs = Counter(spelt)
    read = {name: label for label, name in enumerate(spelt) if occurs[name] == 1}
    return read | {name: label for label, name in enumerate(class_names)}


def training_row(table: DataTable) -> Callable[[str, int], int | None]:
    """A function: source id of a synthetic image, its label -> the table's training row that it was made of.

    That is the row of this id, else the only one of the label whose file has the same name: an image that was
    imported knows no more of its source. None where there is no such row, or several.
    """
    rows = table.rows("train").tolist()
    by_id = {table.ids[row]: row for row in rows}
    by_name: dict[tuple[int, str], int | None] = {}
    for row in rows:
        name = int(table.labels[row]), PurePosixPath(table.ids[row]).stem
        by_name[name] = None if name in by_name else row

    def find(source_id: str, label: int) -> int | None:
        row = by_id.get(source_id)
        return by_name.get((label, PurePosixPath(source_id).stem)) if row is None else row

    return find


def as_own(columns: Columns) -> Columns:
    """`columns` as they are, or renamed where the header is one of the paper's code."""
    names = set(columns.values)
    if {"filepath", "label", "classname"} <= names:
        return _renamed(columns, IMAGENET)
    if {"filepath", "label id", "label name"} <= names:
        return _renamed(columns, WILDCAM)
    if {"filepath", "title", "label", "guidance"} <= names:
        return _renamed(_real_only(columns), TRAINING)
    return columns


def _renamed(columns: Columns, names: dict[str, str]) -> Columns:
    """Without the unnamed index that pandas writes."""
    kept = {name: values for name, values in columns.values.items() if name and not name.startswith("Unnamed")}
    return replace(columns, values={names.get(name, name): values for name, values in kept.items()})


def _real_only(columns: Columns) -> Columns:
    """The real images. Synthetic rows belong into a store: `discl store import --kind reference-table`."""
    real = [row for row, guidance in enumerate(columns["guidance"]) if guidance == REAL]
    if not real:
        raise DataError(f"{columns.file}: no row with guidance = {REAL}, so no real image; give the whole table")
    return columns.take(real)
