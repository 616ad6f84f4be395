"""A CSV, TSV, Parquet or JSON file in, columns of text with the place of every row out."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from discl.data.table import Places
from discl.errors import DataError


@dataclass(frozen=True)
class Columns:
    """`values`: name -> texts, all of one length. `numbers`: those that people give the rows."""

    file: Path
    values: dict[str, list[str]]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), []))

    def __getitem__(self, name: str) -> list[str]:
        return self.values[name]

    def place(self, row: int) -> str:
        """`metadata.csv, row 17`, as messages name it."""
        return f"{self.file}, row {self.numbers[row]}"

    def places(self) -> Places:
        return Places((str(self.file),), np.zeros(len(self), np.int64), np.array(self.numbers, np.int64))

    def take(self, rows: Sequence[int]) -> "Columns":
        values = {name: [texts[row] for row in rows] for name, texts in self.values.items()}
        return Columns(self.file, values, [self.numbers[row] for row in rows])

    def require(self, *names: str) -> None:
        """Raises DataError where a column is missing (the file has changed, or is another one), or all rows."""
        missing = [name for name in names if name not in self.values]
        if missing:
            header = " ".join(", ".join(filter(None, self.values)).split())[:200]
            raise DataError(
                f"{self.file}, row 1: no column {missing[0]!r}; its columns are {header or 'none'}: "
                f"name the column {missing[0]!r} in the header, or give the file that this kind of data comes with"
            )
        if not len(self):
            raise DataError(f"{self.file}: no rows below the header; give one for each image")

    def number(self, name: str, row: int, end: int | None = None, start: int = 0) -> int:
        """A whole number in [start, end). Raises DataError that names file, row and range."""
        text = self.values[name][row]
        try:
            number = int(text)
        except ValueError:
            raise DataError(f"{self.place(row)}: {name} = {text[:40]!r} is no whole number; correct it") from None
        if number < start or (end is not None and number >= end):
            room = f"{start}..{end - 1}" if end is not None else f"{start} and up"
            raise DataError(
                f"{self.place(row)}: {name} = {text[:40]} is out of range, {room}; correct or remove the row"
            )
        return number


def read_columns(file: Path) -> Columns:
    """By the name's ending: .parquet, .tsv, else CSV. Raises DataError for what is no table."""
    return _parquet(file) if file.suffix == ".parquet" else _csv(file)


def _csv(file: Path) -> Columns:
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:  # csv alone knows which line ends split rows
            lines = list(csv.reader(text, delimiter=_delimiter(file)))
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file}: not a table of comma-separated values ({error}); write one") from error
    header, rows = lines[0] if lines else [], {number: row for number, row in enumerate(lines[1:], start=2) if row}
    twice = first_repeated(header)
    if twice:
        raise DataError(f"{file}, row 1: two columns {header[twice[0]]!r}; rename or remove one of them")
    for number, row in rows.items():
        if len(row) != len(header):
            raise DataError(
                f"{file}, row {number}: {len(row)} fields, the header has {len(header)}; complete the row, and quote "
                "commas that are no separators"
            )
    return Columns(
        file, {name: [row[column] for row in rows.values()] for column, name in enumerate(header)}, list(rows)
    )


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(f"{file}: cannot be read: {error.strerror or error}; check the path")


def _delimiter(file: Path) -> str:
    """A tab for .tsv, and for a .csv whose header has tabs and no comma, as the paper's code writes them."""
    if file.suffix == ".tsv":
        return "\t"
    with open(file, encoding="utf-8-sig") as text:
        header = text.readline()
    return "\t" if "\t" in header and "," not in header else ","


def _parquet(file: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except FileNotFoundError as error:
        raise _unreadable(file, error) from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file}: cannot be read as Parquet ({' '.join(str(error).split())}); write it again"
        ) from error
    values = {name: ["" if x is None else str(x) for x in table[name].to_pylist()] for name in table.column_names}
    return Columns(file, values, range(1, 1 + len(table)))


def read_json(file: Path) -> Any:
    """Raises DataError for a file that is missing or no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}; check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON: {error}; restore the file") from None


def first_repeated(values) -> tuple[int, int] | None:
    """(row, earlier row) of the first value that occurs again; None where all differ."""
    seen: dict = {}
    for row, value in enumerate(values):
        if value in seen:
            return row, seen[value]
        seen[value] = row
    return None


def refuse_repeated(columns: Columns, values, what: str) -> None:
    """DataError where a value occurs twice: an id must name one image."""
    found = first_repeated(values)
    if found:
        row, earlier = found
        raise DataError(
            f"{columns.place(row)}: {what} {values[row]!r} is already in row {columns.numbers[earlier]}; "
            "remove one of them"
        )


def distinct(names: list[str], further: list[str]) -> tuple[str, ...]:
    """Names that several classes share get their `further` name in brackets, so that texts tell them apart."""
    occurs = Counter(names)
    out = [f"{name} ({more})" if occurs[name] > 1 else name for name, more in zip(names, further, strict=True)]
    occurs = Counter(out)
    return tuple(name if occurs[name] == 1 else f"{name} #{label}" for label, name in enumerate(out))
