"""A CSV (or .tsv) with the columns path,label[,class_name,caption,split,...] becomes a DataTable."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np

from discl.data.table import SPLITS, DataTable
from discl.errors import DataError

OWN_COLUMNS = ("path", "label", "class_name", "split")
LABEL_DIGITS = 5  # a class for every number up to the highest: five digits is more than any data set has


def load(config) -> DataTable:
    """`config.root` is the file; paths are relative to it; further columns pass through. Raises DataError."""
    file = Path(config.root)
    columns = _read(file)
    labels, class_names = _classes(file, columns)
    splits = columns.get("split", ["train"] * len(labels))
    for line, split in enumerate(splits, start=2):
        if split not in SPLITS:
            raise DataError(f"{file}, line {line}: split = {split!r}; expected one of {', '.join(SPLITS)}")
    return DataTable(
        ids=_unique(columns["path"]),
        paths=[str(file.parent / path) for path in columns["path"]],
        labels=labels,
        splits=splits,
        class_names=class_names,
        columns={name: values for name, values in columns.items() if name not in OWN_COLUMNS},
    )


def _read(file: Path) -> dict[str, list[str]]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:  # csv alone knows which line ends split rows
            lines = list(csv.reader(text, delimiter="\t" if file.suffix == ".tsv" else ","))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.root = {file}: cannot be read as UTF-8 text: {error}") from error
    except csv.Error as error:
        raise DataError(f"data.root = {file}: not a table of comma-separated values: {error}") from error
    header, rows = (lines[0], [row for row in lines[1:] if row]) if lines else ([], [])
    for name in ("path", "label"):
        if name not in header:
            raise DataError(f"{file}: no column {name!r}; its columns are {', '.join(header) or 'none'}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{file}, row {number}: {len(row)} fields, the header has {len(header)}")
    if not rows:
        raise DataError(f"{file}: no rows below the header")
    return {name: [row[column] for row in rows] for column, name in enumerate(header)}


def _classes(file: Path, columns: dict[str, list[str]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Whole-number labels keep their numbers, 0..99999; other labels are numbered in sorted order."""
    given = columns["label"]
    if all(re.fullmatch(r"[+-]?\d+", label, re.ASCII) for label in given):
        numbers = [_number(file, row, label) for row, label in enumerate(given, start=2)]
        defaults = [str(number) for number in range(max(numbers) + 1)]
    else:
        defaults = sorted(set(given))
        number_of = {label: number for number, label in enumerate(defaults)}
        numbers = [number_of[label] for label in given]
    names = _names(file, numbers, columns.get("class_name"), defaults)
    return np.array(numbers, dtype=np.int64), tuple(names)


def _number(file: Path, row: int, label: str) -> int:
    digits = label.removeprefix("+").lstrip("0") or "0"
    if not digits.isdigit() or len(digits) > LABEL_DIGITS:
        raise DataError(
            f"{file}, row {row}: label = {label[:40]}; whole-number labels lie in 0..{10**LABEL_DIGITS - 1}: "
            "number the classes from 0, or name them"
        )
    return int(digits)


def _names(file: Path, numbers: list[int], given: list[str] | None, defaults: list[str]) -> list[str]:
    names = list(defaults)
    seen: dict[int, str] = {}
    for number, name in zip(numbers, given or (), strict=False):
        if seen.setdefault(number, name) != name:
            raise DataError(f"{file}: label {defaults[number]!r} has two class names, {seen[number]!r} and {name!r}")
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
