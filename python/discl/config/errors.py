"""pydantic's complaints in, one-line `ConfigError`s out.

Every message names the file (or --set), the table and key, the value given, what is wrong and what to do.
"""

import difflib
import json
from typing import Any

from pydantic import BaseModel, ValidationError

from discl.config.sections import RunConfig
from discl.errors import ConfigError, nearest


def require_model(config: RunConfig) -> None:
    """Generation needs a diffusion model: ConfigError when the config names none."""
    if not config.model.path:
        raise ConfigError('[model] path is missing; name a diffusers model: path = "folder" or "hub:organisation/name"')


def explain(error: ValidationError, names: dict[tuple[str, ...], str], file: str) -> ConfigError:
    """The first complaint as one line; the rest are counted."""
    details = error.errors(include_url=False)
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    first = (unknown or details)[0]
    place = tuple(str(part) for part in first["loc"])
    here = _origin(place, names, first in unknown) or file
    same = [detail for detail in details if detail["loc"][:2] == first["loc"][:2] and len(place) > 2]
    message = f"{here}: {_complaint(first, place)}"
    if first not in unknown:  # the alternatives of a union complain one by one
        message += "".join(f" or {_wrong(other).removeprefix('should ')}" for other in same[1:])
    others = len(details) - max(1, len(same))
    return ConfigError(" ".join(message.split()) + (f" (and {others} more)" if others else ""))


def _origin(place: tuple[str, ...], names: dict[tuple[str, ...], str], unknown: bool) -> str | None:
    """The override that set this place or, where it is no table of ours, one that set something in it."""
    setting = [names[place[:n]] for n in range(len(place), 0, -1) if place[:n] in names]
    below = [name for keys, name in names.items() if (unknown or len(place) > 1) and keys[: len(place)] == place]
    return next(iter(setting + below), None)


def _complaint(detail: Any, place: tuple[str, ...]) -> str:
    if detail["type"] == "extra_forbidden":
        return _unknown(place, detail["input"])
    if detail["type"] == "missing":
        return f"{_name(place)} is missing; it has no default"
    given = "" if isinstance(detail["input"], dict) else f" = {show(detail['input'])}"
    return f"{_name(place)}{given}: {_wrong(detail)}"


def _wrong(detail: Any) -> str:
    """What is wrong, with TOML's words for Python's types."""
    if detail["type"] in {"tuple_type", "model_type"}:
        return "should be a list" if detail["type"] == "tuple_type" else "should be a table"
    if detail["type"] == "string_type":
        given = detail["input"]
        return f'should be text: write "{show(given)}"' if isinstance(given, int | float) else "should be text"
    return detail["msg"].removeprefix("Value error, ").replace("Input should", "should")


def _name(place: tuple[str, ...]) -> str:
    """("spectrum", "levels", "2") -> `[spectrum] levels, item 3`."""
    fields = _fields(place[:1])
    keys = [part for part in place[1:] if not part.startswith(("function-", "constrained-", "literal["))]
    if fields is None or not keys:
        return f"[{place[0]}]" if place else "the config"
    table, *rest = keys
    items = [f"item {int(part) + 1}" if part.isdigit() and table != "threshold" else part for part in rest]
    return ", ".join([f"[{place[0]}] {table}", *(item for item in items if item not in {"int", "str"})])


def _unknown(place: tuple[str, ...], given: Any) -> str:
    *tables, key = place
    known = _fields(tuple(tables)) or []
    home = next((table for table in RunConfig.model_fields if key in (_fields((table,)) or [])), None)
    misspelt = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    if home and len(place) == 2 and not misspelt:
        return f"[{tables[0]}] has no key {key!r}; {key} belongs to [{home}]"
    near = nearest(key, known)
    if tables:
        return f"[{'.'.join(tables)}] has no key {key!r}; the nearest known key is {near!r}"
    if home and not isinstance(given, dict):
        return f"{key} stands outside of a table; it belongs to [{home}]"
    return f"there is no table [{key}]; the nearest known table is [{near}]"


def _fields(tables: tuple[str, ...]) -> list[str] | None:
    """Key names of a table, following optional sections; None where the place is not a table."""
    model: Any = RunConfig
    for table in tables:
        field = model.model_fields.get(table)
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if model is None:
            return None
    return list(model.model_fields)


def show(value: Any) -> str:
    """A value as TOML would write it, shortened."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
