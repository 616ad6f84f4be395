"""A folder of class folders becomes a DataTable: root/<class>/** or root/{train,val,test}/<class>/**.

Images of deeper folders are of the class too, as in torchvision's ImageFolder.
"""

import os
from pathlib import Path

import numpy as np

from discl.data.images import readable
from discl.data.table import SPLITS, DataTable
from discl.errors import DataError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
LIKE_SPLITS = {*SPLITS, "training", "valid", "validation", "testing"}


def load(config) -> DataTable:
    """Classes and files in sorted order; an id is the path below the root. An empty class is a DataError."""
    return scan(Path(config.root))


def scan(root: Path, class_names: tuple[str, ...] | None = None) -> DataTable:
    """Read the folder names below `root`; `class_names` fixes the order of the classes (default: sorted)."""
    splits = _split_folders(root)
    class_names = class_names or tuple(_folders(splits.get("train", root)))
    if not class_names:
        raise DataError(f"{root}: no class folders; expected root/<class>/* or root/train/<class>/*")
    ids, paths, labels, of_split = [], [], [], []
    for split, folder in splits.items():
        _check_folders(folder, class_names, split)
        for label, name in enumerate(class_names):
            files = _files(folder / name)
            if not files and split == "train":
                raise DataError(f"{folder / name}: the class folder holds no image; add some or remove the folder")
            place = os.path.join(folder, name)
            paths += [os.path.join(place, file) for file in files]
            below = (folder / name).relative_to(root).as_posix()
            ids += [f"{below}/{file}" for file in files]
            labels += [label] * len(files)
            of_split += [split] * len(files)
    return DataTable(ids, paths, np.array(labels, dtype=np.int64), of_split, class_names)


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise DataError(f"data.root = {root}: no such folder")
    names = _folders(root)
    if "train" in names and set(names) <= set(SPLITS):
        return {split: root / split for split in SPLITS if split in names}
    for folder in (root / name for name in names if name.lower() in LIKE_SPLITS):
        if _folders(folder) and not _own_files(folder):
            raise DataError(
                f"{folder}: is it a split or a class? It holds folders and no image of its own, as a split does; "
                f"splits are called train and any of {', '.join(SPLITS[1:])}, with no other folder in {root}, and a "
                f"class may not be called {folder.name}: rename the folder"
            )
    return {"train": root}


def _check_folders(folder: Path, class_names: tuple[str, ...], split: str) -> None:
    unknown = sorted(set(_folders(folder)) - set(class_names))
    if unknown:
        raise DataError(
            f"{folder / unknown[0]}: a class of the {split} split that the train split does not have; rename it or "
            "remove it"
        )


def _folders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    for name in names:
        if readable(name) != name:
            raise DataError(f"{readable(str(folder / name))}: the folder's name is not UTF-8; rename it")
    return names


def _files(folder: Path, above: tuple[Path, ...] = ()) -> list[str]:
    """Paths below a folder of the images in it, at any depth, sorted; none where there is no such folder."""
    here = folder.resolve()
    if not folder.is_dir() or here in above:  # a link to where we come from
        return []
    files = _own_files(folder)
    for name in _folders(folder):
        files += [f"{name}/{file}" for file in _files(folder / name, (*above, here))]
    return sorted(files)


def _own_files(folder: Path) -> list[str]:
    names = [
        entry.name for entry in os.scandir(folder) if not entry.is_dir() and (entry.is_file() or entry.is_symlink())
    ]
    return [name for name in names if name[0] != "." and os.path.splitext(name)[1].lower() in EXTENSIONS]
