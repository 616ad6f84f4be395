"""Class names in, a file of prompt sentences out: by a writer of yours, a language model say, or by the one here.

The file is spectrum.prompts: JSON, class name -> sentences. What it has stays; classes are appended, sentences merged.
"""

import json
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

from discl.atomic import write_atomic
from discl.errors import ConfigError
from discl.prompts import PLACEHOLDER, check_sentences, read_table

Writer = Callable[[str, int], Iterable[str]]  # (class name, how many) -> sentences; may ask any service
PER_CLASS = 10  # as in paper 1.6
FEWEST_WORDS = 5
ASKS = 3  # of a writer that gives too few

SCENES = (
    "on a wooden table", "in tall grass", "beside a stone wall", "at the edge of a forest", "in a city street",
    "on a sandy beach", "against a plain wall", "in a green garden", "near a quiet river", "on a snowy field",
    "inside a bright room", "on a mountain path",
)  # fmt: skip
LIGHTS = (
    "in soft morning light", "under an overcast sky", "in warm evening sun", "in hard noon light", "in dim light",
    "with light from behind", "under a lamp at night", "in fog",
)  # fmt: skip
POSES = (
    "seen from the side", "seen from the front", "seen from above", "seen from a low angle", "partly turned away",
    "in the middle of the picture", "a little off centre",
)  # fmt: skip
DISTANCES = (
    "close up",
    "from a few steps away",
    "from far away",
    "filling the whole picture",
    "with much space around",
)


def offline_writer(name: str, count: int) -> list[str]:
    """`count` different sentences (of 3,360) that vary scene, light, pose and distance: always the same for a name."""
    sentences: dict[str, None] = {}
    draw = 0
    while len(sentences) < count and draw < 100 * count:
        words = [_pick(part, name, draw, place) for place, part in enumerate((DISTANCES, SCENES, LIGHTS, POSES))]
        sentences["a photo of a {class}, " + ", ".join(words)] = None
        draw += 1
    return list(sentences)


def _pick(words: tuple[str, ...], name: str, draw: int, place: int) -> str:
    digest = blake2b(f"{name}\0{draw}\0{place}".encode(), digest_size=8).digest()
    return words[int.from_bytes(digest, "big") % len(words)]


def write_sentences(
    file: str | Path, class_names: Iterable[str], writer: Writer = offline_writer, count: int = PER_CLASS
) -> dict[str, list[str]]:
    """Bring every class in the file to `count` sentences at least, keeping what is there; returns the table.

    The file is written after every class, so nothing that was asked for is lost. A writer's numbering ("1. ") and blank
    lines are dropped; one that gives too few, too short or repeated sentences is asked again, three times in all.
    Raises ConfigError then, for a file of another form and for a count below 1.
    """
    if count < 1:
        raise ConfigError(f"{count} sentences per class are none; ask for at least 1")
    file = Path(file)
    table = read_table(file, f"spectrum.prompts = {file}") if file.exists() else {}
    for name in class_names:
        if name in table:
            check_sentences(f"spectrum.prompts = {file}", name, table[name])
        have = list(table.get(name, []))
        for _ in range(ASKS):
            if len(have) >= count:
                break
            have = list(dict.fromkeys([*have, *filter(_usable, map(_bare, writer(name, count)))]))[:count]
        if len(have) < count:
            raise ConfigError(
                f"{file}: the writer gave {len(have)} of {count} sentences for class {name!r}, each of at least "
                f"{FEWEST_WORDS} words; ask for fewer or write them yourself"
            )
        if have != table.get(name):
            table[name] = have
            write_atomic(file, json.dumps(table, indent=1, ensure_ascii=False).encode())
    return table


def _bare(line: str) -> str:
    """Without the number or bullet that models put before a line, and without what is no text."""
    text = line.encode("utf-8", "ignore").decode().strip()
    head, dot, rest = text.partition(". ")
    if dot and head.isdigit():
        text = rest
    return text.removeprefix("- ").strip().strip('"').strip()


def _usable(sentence: str) -> bool:
    """Long enough, and no {word} but {class}."""
    return len(sentence.split()) >= FEWEST_WORDS and set(PLACEHOLDER.findall(sentence)) <= {"class"}
