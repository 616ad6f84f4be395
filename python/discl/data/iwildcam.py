"""WILDS' iWildCam v2.0 folder (metadata.csv, train/) becomes a DataTable with WILDS' five splits (paper.md 9)."""

from pathlib import Path

import numpy as np

from discl.data.columns import Columns, distinct, read_columns, refuse_repeated
from discl.data.table import SPLITS, DataTable
from discl.errors import DataError

FOLDER = "iwildcam_v2.0"
NO_CLASS = 99999  # rows that WILDS holds and nobody uses
PASSED_ON = ("location_remapped", "sequence_remapped", "datetime", "image_id")
LABEL_TABLES = ("labels.csv", "categories.csv")


def load(config) -> DataTable:
    """`config.root` is the folder of metadata.csv, or the one above. Raises DataError.

    Class names are common ones (column `english` of `config.names`, default labels.csv below the root), else those of
    categories.csv; classes that share a name get the scientific one in brackets. Splits keep WILDS' names: val and test
    are out of distribution, id_val and id_test inside it. Ids are file names.
    """
    root = Path(config.root)
    root = root / FOLDER if (root / FOLDER).is_dir() else root
    metadata = read_columns(root / "metadata.csv")
    metadata.require("split", "filename", "y")
    rows = [row for row, label in enumerate(metadata["y"]) if label != str(NO_CLASS)]
    metadata = metadata.take(rows)
    if not rows:
        raise DataError(f"{metadata.file}: every row has y = {NO_CLASS}, which means no class; give the whole file")
    refuse_repeated(metadata, metadata["filename"], "filename")
    if "image_id" in metadata.values:
        refuse_repeated(metadata, metadata["image_id"], "image_id")
    names = _class_names(_label_table(config, root), metadata)
    for row, split in enumerate(metadata["split"]):
        if split not in SPLITS:
            raise DataError(f"{metadata.place(row)}: split = {split!r}; expected one of {', '.join(SPLITS)}")
    return DataTable(
        ids=metadata["filename"],
        paths=[str(root / "train" / name) for name in metadata["filename"]],
        labels=np.array([metadata.number("y", row, len(names)) for row in range(len(rows))], np.int64),
        splits=metadata["split"],
        class_names=names,
        columns={name: metadata[name] for name in PASSED_ON if name in metadata.values},
        places=metadata.places(),
    )


def _label_table(config, root: Path) -> Columns | None:
    given = [Path(config.names)] if config.names else [root / name for name in LABEL_TABLES]
    file = next((file for file in given if file.is_file()), None)
    if file is None and config.names:
        raise DataError(f"data.names = {config.names}: no such file; give the label table (columns y, name, english)")
    return read_columns(file) if file else None


def _class_names(table: Columns | None, metadata: Columns) -> tuple[str, ...]:
    """Numbers where there is no label table."""
    if table is None:
        labels = [metadata.number("y", row, NO_CLASS) for row in range(len(metadata))]
        return tuple(str(label) for label in range(max(labels) + 1))
    table.require("y", "name")
    used = table.take([row for row, label in enumerate(table["y"]) if label != str(NO_CLASS)])
    refuse_repeated(used, used["y"], "y")
    rows = {table.number("y", row, NO_CLASS): row for row in range(len(table)) if table["y"][row] != str(NO_CLASS)}
    missing = [label for label in range(max(rows, default=-1) + 1) if label not in rows]
    if missing or not rows:
        raise DataError(f"{table.file}: no row for y = {missing[0] if missing else 0}; add the class's name")
    scientific = [table["name"][rows[label]] for label in range(len(rows))]
    common = table.values.get("english", table["name"])
    return distinct([common[rows[label]] or scientific[label] for label in range(len(rows))], scientific)
