"""CIFAR-100 as it is published (binary or python version) becomes a long-tailed DataTable of PNG files.

The tail is the usual exponential one, n_c = floor(n_0 * imbalance^(-c / (C - 1))), of the images that the LDAM code
(Cao et al. 2019) takes with its seed 0, so that results compare with the literature's.
"""

import os
import shutil
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from discl.data.plain_pickle import read_plain
from discl.data.table import DataTable
from discl.errors import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
RECORD = PIXELS + 2  # coarse and fine label, then red, green and blue planes
FOLDERS = ("", "cifar-100-binary", "cifar-100-python")


def load(config) -> DataTable:
    """`config.root` holds train.bin, test.bin and fine_label_names.txt, or train, test and meta. Raises DataError.

    Images are written once as PNG below the root, in a folder that is named by what they are. With `config.upscaled`,
    a folder of the same names (train/<class>/<row>.png) in a larger size, spectra are made of those. There is no
    validation split.
    """
    folder = next((Path(config.root) / name for name in FOLDERS if _version(Path(config.root) / name)), None)
    if folder is None:
        raise DataError(
            f"data.root = {config.root}: neither train.bin (binary version) nor train and meta (python); give "
            "CIFAR-100's folder"
        )
    names = _names(folder)
    splits = {split: _read(folder, split, len(names)) for split in ("train", "test")}
    chosen = {"train": long_tail(splits["train"][1], len(names), config.imbalance)}
    chosen["test"] = np.arange(len(splits["test"][1]))
    written = Path(config.root) / f"discl-png-{_digest(names, splits, chosen)}"
    rows = [(split, int(row)) for split in splits for row in chosen[split]]
    labels = [int(splits[split][1][row]) for split, row in rows]
    ids = [f"{split}/{names[label]}/{row:05d}.png" for (split, row), label in zip(rows, labels, strict=True)]
    for split, (pixels, fine) in splits.items():
        _write(written / split, names, pixels, fine, chosen[split])
    return DataTable(
        ids=ids,
        paths=[str(written / name) for name in ids],
        labels=np.array(labels, np.int64),
        splits=[split for split, _ in rows],
        class_names=names,
        sources=_upscaled(config, ids, rows) if config.upscaled else None,
    )


def _digest(names: tuple[str, ...], splits: dict, chosen: dict[str, np.ndarray]) -> str:
    """12 hex characters that stand for the chosen images, their rows, labels and the names of their folders."""
    digest = blake2b("\0".join(names).encode(), digest_size=6)
    for split, (pixels, labels) in splits.items():
        rows = chosen[split]
        for part in (rows, labels[rows], pixels[rows]):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def long_tail(labels: np.ndarray, classes: int, imbalance: float) -> np.ndarray:
    """int64 rows, class by class: the LDAM code's choice with seed 0."""
    random = np.random.RandomState(0)
    most, rows = len(labels) / classes, []
    for label in range(classes):
        of_class = np.flatnonzero(labels == label)
        random.shuffle(of_class)
        rows.append(of_class[: int(most * (1 / imbalance) ** (label / max(classes - 1, 1)))])
    return np.concatenate(rows)


def _version(folder: Path) -> str | None:
    if (folder / "train.bin").is_file():
        return "binary"
    return "python" if (folder / "train").is_file() and (folder / "meta").is_file() else None


def _names(folder: Path) -> tuple[str, ...]:
    """Names of the classes, which become folders."""
    if _version(folder) == "python":
        file = folder / "meta"
        given = read_plain(file).get(b"fine_label_names", [])
        names = [name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name) for name in given]
    else:
        file = folder / "fine_label_names.txt"
        if not file.is_file():
            raise DataError(f"{file}: no such file; it belongs to CIFAR-100's binary version and names the classes")
        names = file.read_bytes().decode("utf-8-sig", "backslashreplace").split()
    for row, name in enumerate(names):
        if not name or name[0] == "." or {"/", "\0"} & set(name) or name in names[:row]:
            raise DataError(
                f"{file}, row {row + 1}: {name!r} cannot name a class and its folder; download the file again"
            )
    return tuple(names)


def _read(folder: Path, split: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 3, 32, 32] and fine labels int64 [N]."""
    file = folder / (f"{split}.bin" if _version(folder) == "binary" else split)
    pixels, labels = _binary(file) if file.suffix == ".bin" else _batch(file)
    if pixels.shape[1:] != (PIXELS,) or len(pixels) != len(labels) or not len(labels):
        raise DataError(f"{file}: {pixels.shape} values and {len(labels)} labels are no CIFAR-100 images; restore it")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{file}, row {wrong[0]}: fine label {labels[wrong[0]]} is out of range, 0..{classes - 1}; restore the file"
        )
    return pixels.reshape(-1, 3, SIDE, SIDE), labels


def _binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}; restore it") from error
    if len(data) % RECORD:
        raise DataError(f"{file}: {len(data)} bytes are no whole number of records of {RECORD}; download it again")
    records = data.reshape(-1, RECORD)
    return records[:, 2:], records[:, 1].astype(np.int64)


def _batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = read_plain(file)
    for key in (b"data", b"fine_labels"):
        if key not in batch:
            raise DataError(f"{file}: no {key.decode()!r} in the batch; give CIFAR-100's python version")
    return np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"fine_labels"], np.int64)


def _write(
    folder: Path, names: tuple[str, ...], pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> None:  # fmt: skip
    """<class>/<row>.png for the given rows, all at once by a rename; whoever comes second finds them there."""
    if folder.is_dir():
        return
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name in names:
            (unfinished / name).mkdir(parents=True, exist_ok=True)
        for row in rows:
            Image.fromarray(pixels[row].transpose(1, 2, 0)).save(unfinished / names[labels[row]] / f"{row:05d}.png")
        os.rename(unfinished, folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.is_dir():
            raise DataError(
                f"data.root: the images cannot be written to {folder}: {error}; make it writable"
            ) from error


def _upscaled(config, ids: list[str], rows: list[tuple[str, int]]) -> list[str]:
    """One file per image. Only training images become sources, so the others need none."""
    folder = Path(config.upscaled)
    if not folder.is_dir():
        raise DataError(f"data.upscaled = {folder}: no such folder; give one with train/<class>/<row>.png")
    return [str(folder / name) for name in ids]
