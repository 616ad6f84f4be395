"""iNaturalist 2018's annotation files (train2018.json, val2018.json) become a DataTable."""

from pathlib import Path, PurePath
from typing import Any

import numpy as np

from discl.data.columns import distinct, first_repeated, read_json
from discl.data.table import DataTable, Places
from discl.errors import DataError

FILES = {"train": "train2018.json", "test": "val2018.json"}  # the contest's val is what papers report


def load(config) -> DataTable:
    """Annotations are in `config.lists` (default: root), images at root/<file_name>. Raises DataError.

    Labels are the category ids. categories.json, where it is there, gives the names, since the contest's annotations
    hide them. `license` and `rights_holder` are passed on.
    """
    root, lists = Path(config.root), Path(config.lists or config.root)
    if not (lists / FILES["train"]).is_file():
        raise DataError(f"{lists / FILES['train']}: no such file; put it there, or set data.lists")
    files = {split: lists / name for split, name in FILES.items() if (lists / name).is_file()}
    read = {split: read_json(file) for split, file in files.items()}
    names = _class_names(files["train"], read["train"], lists / "categories.json")
    parts = [_rows(file, read[split], split, len(names)) for split, file in files.items()]
    rows = [row for part in parts for row in part]
    images = [image for image, _, _ in rows]
    return DataTable(
        ids=[image["file_name"] for image in images],
        paths=[str(root / image["file_name"]) for image in images],
        labels=np.array([label for _, label, _ in rows], np.int64),
        splits=[split for _, _, split in rows],
        class_names=names,
        columns={name: [str(image.get(name, "")) for image in images] for name in ("license", "rights_holder")},
        places=Places.joined(
            [
                Places((f"{file} (annotations)",), np.zeros(len(part), np.int64), np.arange(1, len(part) + 1))
                for file, part in zip(files.values(), parts, strict=True)
            ]
        ),
    )


def _table(file: Path, data: Any, name: str, keys: dict[str, type]) -> list[dict[str, Any]]:
    """The rows of a list; `keys` are those that every row has, of these types."""
    rows = data.get(name) if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{file}: holds no list {name!r}; give iNaturalist 2018's annotation file")
    for number, row in enumerate(rows, start=1):
        wrong = _wrong(row, keys)
        if wrong:
            raise DataError(f"{file}, {name}, row {number}: {wrong}")
    return rows


def _wrong(row: Any, keys: dict[str, type]) -> str:
    for key, kind in keys.items():
        if not isinstance(row, dict) or key not in row:
            return f"no key {key!r}; restore the file as it was published"
        if not isinstance(row[key], kind):
            return f"{key} = {str(row[key])[:40]!r} is no {kind.__name__}; correct it"
    return ""


def _rows(file: Path, data: Any, split: str, classes: int) -> list[tuple[dict[str, Any], int, str]]:
    """(image, label, split) for every annotation."""
    images: dict[int, dict[str, Any]] = {}
    for number, image in enumerate(_table(file, data, "images", {"id": int, "file_name": str}), start=1):
        if image["id"] in images:
            raise DataError(f"{file}, images, row {number}: image id {image['id']} occurs twice; remove one of them")
        if _leads_out(PurePath(image["file_name"])):
            raise DataError(
                f"{file}, images, row {number}: file_name = {image['file_name'][:60]!r} leads out of data.root; "
                "give a path below it"
            )
        images[image["id"]] = image
    rows: list[tuple[dict[str, Any], int, str]] = []
    seen: dict[int, int] = {}
    for number, note in enumerate(_table(file, data, "annotations", {"image_id": int, "category_id": int}), start=1):
        place = f"{file}, annotations, row {number}"
        label = note["category_id"]
        if note["image_id"] not in images:
            raise DataError(f"{place}: image_id {note['image_id']} is not among the images; remove the annotation")
        if seen.setdefault(note["image_id"], number) != number:
            raise DataError(
                f"{place}: image_id {note['image_id']} was annotated in row {seen[note['image_id']]}; keep one"
            )
        if not 0 <= label < classes:
            raise DataError(f"{place}: category_id {label} is out of range, 0..{classes - 1}; correct it")
        rows.append((images[note["image_id"]], label, split))
    if not rows:
        raise DataError(f"{file}: no annotations; give iNaturalist 2018's annotation file")
    return rows


def _leads_out(path: PurePath) -> bool:
    return path.is_absolute() or ".." in path.parts


def _class_names(file: Path, data: Any, categories: Path) -> tuple[str, ...]:
    if categories.is_file():
        file, data = categories, {"categories": read_json(categories)}
    rows = _table(file, data, "categories", {"id": int, "name": object})
    twice = first_repeated(row["id"] for row in rows)
    if twice:
        again, earlier = twice
        raise DataError(
            f"{file}, categories, row {again + 1}: id {rows[again]['id']} is already in row {earlier + 1}; keep one"
        )
    names = {row["id"]: str(row["name"]) for row in rows}
    missing = next((label for label in range(len(names)) if label not in names), None)
    if missing is not None or not names:
        raise DataError(f"{file}, categories: no category has id {missing or 0}; ids run from 0 without gaps")
    return distinct([names[label] for label in range(len(names))], list(map(str, range(len(names)))))
