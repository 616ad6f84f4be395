"""Class names and templates in, the classes' texts out; what cannot tell classes apart is refused."""

from collections.abc import Sequence

from discl.errors import ConfigError
from discl.prompts import check_template, fill


def class_texts(prompt: str, class_names: Sequence[str]) -> list[str]:
    """One text per class. ConfigError for a class without one, and for two classes with the same."""
    check_template(prompt, "--prompt")
    texts = [fill(prompt, name or "", "--prompt").strip() for name in class_names]
    owner: dict[str, str] = {}
    for name, text in zip(class_names, texts, strict=True):
        if not text or ("{class}" in prompt and not (name or "").strip()):
            raise ConfigError(f"class {name!r} has no text: its name is blank, so {prompt!r} says nothing; name it")
        if text in owner:
            raise ConfigError(
                f"the classes {owner[text]!r} and {name!r} have one text, {text!r}: their scores would be equal; "
                "write {class} into --prompt and give classes different names"
            )
        owner[text] = name
    return texts
