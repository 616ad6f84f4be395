"""Class names in, texts out: `{class}` templates, or sentences from a file chosen by digest (paper 1.6, 1.7)."""

import json
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discl.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

    from discl.engine.scorer import Scorer

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def fill(template: str, class_name: str, key: str = "spectrum.prompt") -> str:
    """`a photo of a {class}` with the class's name. ConfigError names `key` if another {...} is in it."""
    check_template(template, key)
    return template.replace("{class}", class_name)


def check_template(template: str, key: str, known: tuple[str, ...] = ("class",)) -> None:
    for name in PLACEHOLDER.findall(template):
        if name not in known:
            allowed = " or ".join(f"{{{one}}}" for one in known)
            raise ConfigError(f"{key} = {template!r}: {{{name}}} is not known here; write {allowed}")


def class_texts(prompt: str, class_names: Sequence[str], key: str) -> list[str]:
    """The text that stands for each class. ConfigError for a class without one, and for two classes with the same."""
    texts = [" ".join(fill(prompt, name, key).split()) for name in class_names]  # as tokenizers see them
    owner: dict[str, str] = {}
    for name, text in zip(class_names, texts, strict=True):
        if not text or ("{class}" in prompt and not name.strip()):
            raise ConfigError(f"class {name!r} has no text: {key} = {prompt!r} says nothing of it; give it a name")
        if text in owner:
            raise ConfigError(
                f"the classes {owner[text]!r} and {name!r} have one text, {text!r}, so scores cannot tell them apart: "
                f"write {{class}} into {key} and give classes different names"
            )
        owner[text] = name
    return texts


def class_embeddings(scorer: "Scorer", prompt: str, class_names: Sequence[str], key: str) -> "torch.Tensor":
    """float32 [C, D] of `class_texts`. ConfigError, too, where the scorer's CLIP reads two classes' texts as one."""
    texts = class_texts(prompt, class_names, key)
    if same := scorer.same_text(texts):
        first, second = (class_names[place] for place in same)
        raise ConfigError(
            f"this CLIP reads the texts of the classes {first!r} and {second!r} as one, since upper and lower case are "
            f"one to it or both are cut off before they differ, so scores cannot tell them apart: write {{class}} near "
            f"the beginning of {key} and give classes different names"
        )
    return scorer.embed_texts(texts)


class Prompts:
    """The prompt of every (class, seed, retry). One sentence serves all images and levels of these.

    Without a file the template is the prompt. With a file (JSON: class name -> list of sentences) a sentence
    is chosen by digest, and the template wraps it if it holds `{sentence}`. All texts may hold `{class}`. `{caption}`
    stays, for the image's own to take its place.
    Retries take the sentences that follow in the list, so that none is tried again before all had their turn.
    """

    def __init__(self, template: str, file: str, class_names: tuple[str, ...], known: tuple[str, ...] = ()):
        """class_names: those that need sentences. known: all that the data has, () for any."""
        words = ("class", "caption", "sentence") if file else ("class", "caption")
        check_template(template, "spectrum.prompt", words)
        self.template = template
        self.sentences = read_sentences(Path(file), class_names, known) if file else {}

    def __call__(self, class_name: str, seed: int, retry: int = 0) -> str:
        sentences = self.sentences.get(class_name)
        if sentences is None:
            return self.template.replace("{class}", class_name)
        sentence = sentences[(choice(class_name, seed, len(sentences)) + retry) % len(sentences)]
        wrapped = self.template.replace("{sentence}", sentence) if "{sentence}" in self.template else sentence
        return wrapped.replace("{class}", class_name)


def choice(class_name: str, seed: int, count: int) -> int:
    """A number in [0, count) that depends on (class, seed) alone: the same in every process and version."""
    digest = blake2b(class_name.encode() + b"\0" + seed.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def read_table(file: Path, where: str) -> dict[str, Any]:
    """Class name -> sentences, unchecked. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        table = json.loads(text, object_pairs_hook=lambda pairs: _named_once(where, pairs))
        json.dumps(table, ensure_ascii=False).encode()  # half a surrogate pair is JSON and no text
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}: cannot be read ({error}); check the path, or let `discl prompts` write it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid JSON ({error}); write {{class: [sentences]}}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: holds a {type(table).__name__}; write an object {{class: [sentences]}}")
    return table


def _named_once(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON itself would keep the last of equal names and drop the others' sentences."""
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ConfigError(f"{where}: class {name!r} occurs twice; merge its sentences into one list")
        table[name] = value
    return table


def read_sentences(file: Path, class_names: tuple[str, ...], known: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Read and check the file: every class that gets a spectrum has at least one sentence, none is blank.

    known: the data's classes; any other in the file is a ConfigError.
    """
    where = f"spectrum.prompts = {file}"
    table = read_table(file, where)
    foreign = next((name for name in table if known and name not in known), None)
    if foreign is not None:
        raise ConfigError(
            f"{where}, row {_row(file, foreign)}: class {foreign!r} is not in the data; "
            f"the nearest is {nearest(foreign, known)!r}: rename or remove it"
        )
    missing = [name for name in class_names if name not in table]
    if missing:
        raise ConfigError(f"{where}: no sentences for {_list(missing)}; add them under the class's exact name")
    for name in class_names:
        check_sentences(where, name, table[name])
    return {name: table[name] for name in class_names}


def _row(file: Path, name: str) -> int:
    """The line of a class's name, as it is written or escaped."""
    text = file.read_text(encoding="utf-8-sig")
    at = max(text.find(json.dumps(name, ensure_ascii=False)), text.find(json.dumps(name)))
    return text.count("\n", 0, max(at, 0)) + 1


def check_sentences(where: str, name: str, sentences: object) -> None:
    """ConfigError unless they are a list of texts with known words in braces."""
    if not isinstance(sentences, list) or not sentences:
        raise ConfigError(f'{where}: class {name!r} needs a list of at least one sentence; write ["..."]')
    for number, sentence in enumerate(sentences, start=1):
        if not isinstance(sentence, str) or not sentence.strip():
            raise ConfigError(f"{where}: class {name!r}, sentence {number} is blank or no text; remove it")
        check_template(sentence, f"{where}, class {name!r}")


def _list(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more classes" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more
