"""Other people's folders and archives in, images with what is known of them out; nothing is unpacked to disk."""

import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

from discl.data.columns import read_columns
from discl.data.imagefolder import EXTENSIONS, scan
from discl.data.imagenet_lt import fields
from discl.data.images import readable
from discl.data.reference import REAL
from discl.errors import StoreError

SCRIPTS_LEAF = re.compile(r"Strength(?P<strength>\d+)_guidance\d+_seed(?P<seed>\d+)")
NOTEBOOKS_LEAF = re.compile(r"ImgGuid(?P<level>\d+)_seed(?P<seed>-?\d+)")
NOTEBOOKS_ROOT = "GeneratedImg"
CUT = {9: 10, 19: 20}  # the scripts' strengths are multiples of ten, and int(100 * (1 - 0.9)) is 9
WDS_IMAGES = ("jpg", "jpeg", "png", "webp")
MEMBER_BYTES = 256 << 20
INT64 = range(-(2**63), 2**63)
RANGES = {"class_id": INT64, "level": range(101), "seed": INT64}


@dataclass
class Found:
    """name: of the image, as its source is called; row: the index columns that are known. image: its bytes, or file:
    which has them. below: the one of several folders or archives in which the name stands alone."""

    name: str
    image: bytes = b""
    row: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    below: str = ""

    @property
    def place(self) -> str:
        """Where it is in what was given, and no other image."""
        return readable(f"{self.below}/{self.name}" if self.below else self.name)

    @property
    def state(self) -> str:
        """Another one when the image has changed, or what is known of it. OSError for a file that is gone."""
        facts = self.file.stat() if self.file else None
        seen = (facts.st_size, facts.st_mtime_ns) if facts else blake2b(self.image, digest_size=16).hexdigest()
        return repr((self.place, sorted(self.row.items()), seen))

    def read(self) -> bytes:
        """The image's bytes, in any thread."""
        return self.file.read_bytes() if self.file else self.image


def from_imagefolder(root: Path) -> Iterator[Found]:
    """root/<class>/** or root/{train,val,test}/<class>/**; of the latter the training images."""
    table = scan(root)
    for at in table.rows("train"):
        row = {"class_name": table.class_names[table.labels[at]]}  # no number: the data's own is not known here
        yield Found(table.ids[at], row=row, file=Path(table.paths[at]))


def from_reference(root: Path) -> Iterator[Found]:
    """The output trees of the paper's code: its scripts' <Class_with_underscores>/Strength<S>_.._seed<k>/,
    where level is 100 - S (90 and 80 for its Strength9 and Strength19), and its notebook's ImgGuid<level>_seed<k>/,
    below a class's folder or, of no class, alone.
    """
    for class_name, leaf in _leaves(root):
        place = read_leaf(leaf.name)
        if place is None:
            continue
        row = place if class_name is None else {"class_name": class_name, **place}
        for file in sorted(leaf.iterdir()):
            if file.suffix.lower() in EXTENSIONS and file.is_file():
                yield Found(file.name, row=row, file=file, below=leaf.relative_to(root).as_posix())


def read_leaf(name: str) -> dict[str, int] | None:
    """Level 0..99 and seed, by the name of a folder of the paper's code; None for others, and for real images."""
    named = SCRIPTS_LEAF.fullmatch(name) or NOTEBOOKS_LEAF.fullmatch(name)
    if named is None:
        return None
    facts = {word: int(number) for word, number in named.groupdict().items()}
    level = facts["level"] if "level" in facts else 100 - CUT.get(facts["strength"], facts["strength"])
    fits = 0 <= level < 100 and -(2**63) <= facts["seed"] < 2**63  # the index holds 64 bits
    return {"level": level, "seed": facts["seed"]} if fits else None


def _leaves(root: Path) -> Iterator[tuple[str | None, Path]]:
    """(class name, folder of one level and seed): root/<leaf>, root/GeneratedImg/<leaf> and root/<class>/<leaf>."""
    for folder in _folders(root):
        if read_leaf(folder.name):
            yield None, folder
            continue
        class_name = None if folder.name == NOTEBOOKS_ROOT else folder.name.replace("_", " ")
        for leaf in _folders(folder):
            yield class_name, leaf


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir())


def from_reference_list(file: Path) -> Iterator[Found]:
    """The augmented list's synthetic lines, `path label guidance train_count`; paths are relative to its folder."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{file}: cannot be read as UTF-8 text ({error}); check the path") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            path, label, guidance = fields(file, number, line)
            if guidance != REAL:
                yield _listed(f"{file}, row {number}", file.parent, path, label, guidance)


def from_reference_table(file: Path) -> Iterator[Found]:
    """The training table's synthetic rows (columns filepath, label, guidance, seed, title), once per image."""
    table = read_columns(file)
    table.require("filepath", "label", "guidance", "seed", "title")
    seen = set()
    for row, path in enumerate(table["filepath"]):
        if table["guidance"][row] == REAL or path in seen:  # two rows per image, one for each caption
            continue
        seen.add(path)
        found = _listed(table.place(row), file.parent, path, table["label"][row], table["guidance"][row])
        found.row |= {"seed": table.number("seed", row), "prompt": table["title"][row]}
        yield found


def _listed(place: str, folder: Path, path: str, label: str, guidance: str) -> Found:
    """One image of a list, its class named by the reference tree's folder where it lies in one."""
    file = folder / path
    if not (label.isdigit() and guidance.isdigit() and int(guidance) < 100):
        raise StoreError(f"{place}: label {label!r} and guidance {guidance!r} are no class and level 0..99; correct it")
    leaf = read_leaf(file.parent.name)
    level = leaf["level"] if leaf and 100 - int(guidance) in CUT else int(guidance)  # taken from the folder's name
    row: dict[str, Any] = {"class_id": int(label), "level": level}
    row["class_name"] = file.parent.parent.name.replace("_", " ") if leaf else label
    if leaf:
        row["seed"] = leaf["seed"]
    try:
        return Found(path, file.read_bytes(), row)
    except OSError as error:
        raise StoreError(f"{place}: {file} cannot be read ({error.strerror}); restore it or remove the row") from error


def from_webdataset(path: Path) -> Iterator[Found]:
    """Samples of a tar, or of a folder's tars: <name>.<jpg|jpeg|png|webp> with .cls, .txt and .json beside it."""
    for tar in sorted(path.glob("*.tar")) if path.is_dir() else [path]:
        try:
            with tarfile.open(tar, "r|") as archive:
                yield from _samples(tar, archive, tar.name if path.is_dir() else "")
        except tarfile.TarError as error:
            raise StoreError(f"{tar}: is no tar that can be read ({error})") from error


def _samples(tar: Path, archive: tarfile.TarFile, below: str) -> Iterator[Found]:
    sample = Found("")
    for member in archive:
        if not member.isfile():
            continue
        name, kind = _checked(tar, member)
        if name != sample.name:
            if sample.name:
                yield sample
            sample = Found(name, below=below)
        content = archive.extractfile(member)
        assert content is not None
        _take(sample, kind, content.read(), tar)
    if sample.name:
        yield sample


def _checked(tar: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    """The sample's name and the kind of the member. StoreError for names that lead elsewhere and absurd sizes."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise StoreError(f"{tar}: member {member.name!r} leads out of the archive; it is refused")
    if member.size > MEMBER_BYTES:
        raise StoreError(f"{tar}: member {member.name!r} has {member.size} bytes, more than {MEMBER_BYTES}")
    stem, _, kind = path.name.partition(".")
    return str(path.with_name(stem or "_")), kind.lower()


def _take(sample: Found, kind: str, data: bytes, tar: Path) -> None:
    try:
        if kind in WDS_IMAGES:
            sample.image = data
        elif kind == "cls":
            sample.row["class_id"] = int(data)
        elif kind == "txt":
            sample.row["prompt"] = data.decode()
        elif kind == "json":
            facts = json.loads(data)
            kinds = {"class_name": str, "level": int, "seed": int, "prompt": str}
            sample.row |= {name: facts[name] for name, sort in kinds.items() if type(facts.get(name)) is sort}
        _check(sample.row)
    except (ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{tar}: {sample.name}.{kind} cannot be understood: {error}") from error


def _check(row: dict[str, Any]) -> None:
    """ValueError for what an index cannot hold, while it is known whose it is."""
    for name, value in row.items():
        if isinstance(value, str):
            value.encode()  # half of a surrogate pair
        elif value not in RANGES[name]:
            raise ValueError(f"{name} {value} is not in {RANGES[name].start}..{RANGES[name].stop - 1}")


KINDS: dict[str, Callable[[Path], Iterator[Found]]] = {
    "imagefolder": from_imagefolder,
    "wds": from_webdataset,
    "reference": from_reference,
    "reference-list": from_reference_list,
    "reference-table": from_reference_table,
}
