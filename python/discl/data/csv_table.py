"""A CSV, TSV or Parquet file with the columns path,label[,class_name,caption,split,...] becomes a DataTable.

The tables of the paper's code are taken too (see `discl.data.reference`).
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from discl.data.columns import Columns, distinct, read_columns, refuse_repeated
from discl.data.reference import as_own
from discl.data.table import SPLITS, DataTable
from discl.errors import DataError

OWN_COLUMNS = ("path", "label", "class_name", "split")
LABEL_DIGITS = 5  # a class for every number up to the highest: five digits is more than any data set has


def load(config) -> DataTable:
    """`config.root` is the file; paths are relative to it; further columns pass through. Raises DataError.

    A path may stand in several rows with different labels or captions, not in equal ones. Labels that share a
    class name get their number in brackets behind it, so that texts tell them apart.
    """
    file = Path(config.root)
    columns = as_own(read_columns(file))
    columns.require("path", "label")
    rows = list(zip(columns["path"], columns["label"], columns.values.get("caption", columns["label"]), strict=True))
    refuse_repeated(columns, rows, "path, label and caption")
    labels, class_names = _classes(columns)
    splits = columns.values.get("split", ["train"] * len(labels))
    for row, split in enumerate(splits):
        if split not in SPLITS:
            raise DataError(f"{columns.place(row)}: split = {split!r}; expected one of {', '.join(SPLITS)}")
    return DataTable(
        ids=_unique(columns["path"]),
        paths=[str(file.parent / path) for path in columns["path"]],
        labels=labels,
        splits=splits,
        class_names=class_names,
        columns={name: values for name, values in columns.values.items() if name not in OWN_COLUMNS},
        places=columns.places(),
    )


def _classes(columns: Columns) -> tuple[np.ndarray, tuple[str, ...]]:
    """Whole-number labels keep their numbers, 0..99999; other labels are numbered in sorted order."""
    given = columns["label"]
    empty = next((row for row, label in enumerate(given) if not label), None)
    if empty is not None:
        raise DataError(f"{columns.place(empty)}: no label; write the image's class, or remove the row")
    if all(re.fullmatch(r"[+-]?\d+(\.0+)?", label, re.ASCII) for label in given):  # 1.0: of a table of floats
        numbers = [_number(columns, row, label) for row, label in enumerate(given)]
        defaults = [str(number) for number in range(max(numbers) + 1)]
    else:
        defaults = sorted(set(given))
        number_of = {label: number for number, label in enumerate(defaults)}
        numbers = [number_of[label] for label in given]
    names = _names(columns, numbers, columns.values.get("class_name"), defaults)
    return np.array(numbers, dtype=np.int64), distinct(names, defaults)


def _number(columns: Columns, row: int, label: str) -> int:
    digits = label.partition(".")[0].removeprefix("+").lstrip("0") or "0"
    if not digits.isdigit() or len(digits) > LABEL_DIGITS:
        raise DataError(
            f"{columns.place(row)}: label = {label[:40]}; whole-number labels lie in 0..{10**LABEL_DIGITS - 1}: "
            "number the classes from 0, or name them"
        )
    return int(digits)


def _names(columns: Columns, numbers: list[int], given: list[str] | None, defaults: list[str]) -> list[str]:
    names = list(defaults)
    seen: dict[int, str] = {}
    for row, (number, name) in enumerate(zip(numbers, given or (), strict=False)):
        if seen.setdefault(number, name) != name:
            raise DataError(
                f"{columns.place(row)}: label {defaults[number]!r} has two class names, "
                f"{seen[number]!r} and {name!r}; write one of them"
            )
        names[number] = name
    return names


def _unique(paths: list[str]) -> list[str]:
    """A path that occurs again (a second caption, say) gets #2, #3, ..."""
    seen: Counter[str] = Counter()
    ids = []
    for path in paths:
        seen[path] += 1
        ids.append(path if seen[path] == 1 else f"{path}#{seen[path]}")
    return ids
