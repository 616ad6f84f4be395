"""ImageNet_LT_{train,val,test}.txt and an image folder become a DataTable; also lists of the same form (paper.md 9).

A line is `relative/path label`, or `path label guidance train_count` in the paper's augmented list.
"""

from pathlib import Path

import numpy as np

from discl.data.columns import Columns, distinct, refuse_repeated
from discl.data.reference import REAL
from discl.data.table import DataTable, Places
from discl.errors import DataError

CLASSES = 1000
LIST = "ImageNet_LT_{split}.txt"
SPLITS = ("train", "val", "test")


def load(config) -> DataTable:
    """Lists are in `config.lists` (default: root), their paths are below `config.root`. Raises DataError.

    An id is the path. Names: OpenAI's for 1000 classes, which are in the order of the labels, else the WordNet ids.
    """
    root, lists = Path(config.root), Path(config.lists or config.root)
    parts = {split: read_list(lists / LIST.format(split=split)) for split in _splits(lists)}
    ids = [path for part in parts.values() for path in part["path"]]
    labels = {"train": _numbers(parts["train"], CLASSES)}
    names = _class_names(parts["train"], labels["train"])
    labels |= {split: _numbers(part, len(names)) for split, part in parts.items() if split != "train"}
    return DataTable(
        ids=ids,
        paths=[str(root / path) for path in ids],
        labels=np.array([label for split in parts for label in labels[split]], np.int64),
        splits=[split for split, part in parts.items() for _ in range(len(part))],
        class_names=names,
        places=Places.joined([part.places() for part in parts.values()]),
    )


def _splits(lists: Path) -> list[str]:
    found = [split for split in SPLITS if (lists / LIST.format(split=split)).is_file()]
    if "train" not in found:
        raise DataError(f"{lists / LIST.format(split='train')}: no such list; put it there, or set data.lists")
    return found


def read_list(file: Path) -> Columns:
    """Columns path and label of a list's real images. Raises DataError for an empty list or a line of another form."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    rows = [(number, *fields(file, number, line)) for number, line in enumerate(lines, start=1) if line.strip()]
    real = [row for row in rows if row[3] == REAL]
    if not real:
        raise DataError(f"{file}: lists no real image; give one `path label` a line")
    numbers, paths, labels, _ = map(list, zip(*real, strict=True))
    columns = Columns(file, {"path": paths, "label": labels}, numbers)
    refuse_repeated(columns, paths, "image")
    return columns


def fields(file: Path, number: int, line: str) -> tuple[str, str, str]:
    """path, label and guidance (100 where the list has none); a path may hold blanks."""
    words = line.rsplit(maxsplit=3)
    if len(words) == 4 and all(word.isdigit() for word in words[1:]):
        return words[0], words[1], words[2]
    path, *label = line.rsplit(maxsplit=1)
    if not label:
        raise DataError(f"{file}, row {number}: {line[:60]!r} has no label; write `path label`")
    return path, label[0], REAL


def _numbers(part: Columns, classes: int) -> list[int]:
    return [part.number("label", row, classes) for row in range(len(part))]


def _class_names(train: Columns, labels: list[int]) -> tuple[str, ...]:
    words = {label: Path(path).parent.name for label, path in zip(labels, train["path"], strict=True)}
    wordnet = [words.get(label) or str(label) for label in range(max(labels) + 1)]
    if len(wordnet) == CLASSES:
        from open_clip import IMAGENET_CLASSNAMES

        return distinct(list(IMAGENET_CLASSNAMES), wordnet)
    return distinct(wordnet, list(map(str, range(len(wordnet)))))
