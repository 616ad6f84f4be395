"""Text and attributes come in; HTML that is escaped by construction goes out."""

import html
import json
from typing import Any

VOID = frozenset({"br", "hr", "img", "input", "meta"})


class Markup(str):
    """A string that is HTML already and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Markup:
    """HTML of anything: Markup as it is, the rest escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. `class_`, `for_` lose their underscore, `aria_label` becomes `aria-label`;
    an attribute that is None or False is left out, True stands alone."""
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in VOID:
        return Markup(opened)
    return Markup(f"{opened}{join(children)}</{name}>")


def join(children: Any, between: str = "") -> Markup:
    """The children after each other; strings are escaped, None is left out."""
    return Markup(between.join(text(child) for child in children if child is not None))


def section(identity: str, title: str, *children: object) -> Markup:
    """One card of the page; `identity` is what the links at its head point to."""
    return tag("section", tag("h2", title), *children, id=identity, class_="card")


def scroller(label: str, *children: object, class_: str = "scroll") -> Markup:
    """A box that scrolls by itself, also with the keyboard, so that the page never scrolls sideways."""
    return tag("div", *children, class_=class_, tabindex="0", role="region", aria_label=label)


def headings(*names: object) -> Markup:
    """The head of a table, one column per name."""
    return tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))


def embedded_json(identity: str, value: object) -> Markup:
    """A `<script type="application/json">` block: no text inside it can end the block."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        body = body.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Markup(body), type="application/json", id=identity)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'
