"""TOML file + overrides -> `RunConfig`, and back to TOML."""

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from discl.config.errors import explain
from discl.config.sections import RunConfig
from discl.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


SHIPPED = Path(__file__).parents[1] / "configs"
MOST_BASES = 8


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> RunConfig:
    """Read `path` (TOML), apply overrides `table.key=value` in order, validate, make paths absolute.

    Values of overrides are TOML (`spectrum.levels=[0, 50]`); what is not TOML is taken as a bare string
    (`model.path=hub:org/name`). A name with a dot stands in quotes (`score.threshold."St. Bernard"=0.2`). Paths, in
    overrides too, are relative to the config's folder.
    `base = "other.toml"` at the head takes what is not given from there. A name without a file is one of the shipped
    configs (`imagenet-lt-bs`), whose paths are relative to the working directory.
    Raises ConfigError in one line for a missing or malformed file, an unknown or unavailable key, a bad
    value.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"{path!r} is no path of a file; give the name of a config file or of a shipped config")
    path = Path(path)
    shipped = SHIPPED / f"{path}.toml"
    if not os.path.exists(path) and len(path.parts) == 1 and os.path.isfile(shipped):
        return parse_config(shipped.read_text("utf-8"), Path.cwd(), str(path), overrides, SHIPPED)
    return parse_config(_read(path), path.absolute().parent, str(path), overrides)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # some editors begin with a byte-order mark
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name the config file inside it") from None
    except FileNotFoundError:
        shipped = difflib.get_close_matches(
            str(path), [file.name.removesuffix(".toml") for file in SHIPPED.iterdir()], 1
        )
        hint = f", or name a config of the package, {shipped[0]!r} say" if shipped else ""
        raise ConfigError(f"{path}: no such config file; check the path{hint}") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a name with a null byte
        raise ConfigError(f"{str(path)!r}: cannot be read as a UTF-8 text file ({error}); check the path") from None


def parse_config(
    text: str, folder: Path, file: str = "config", overrides: Iterable[str] = (), bases: Path | None = None
) -> RunConfig:
    """The same for TOML text; `folder` is what its paths are relative to, `file` its name in messages.

    bases: where the file that `base` names lies (default: `folder`).
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides = {overrides!r}: give a list of texts, [{overrides!r}]")
    tables = _based(_tables(text, file), bases or folder, (file,))
    names = dict(_override(tables, override) for override in overrides)
    for table in RunConfig.model_fields:
        if table not in {"data", "score"}:
            tables.setdefault(table, {})
    try:
        config = RunConfig.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        raise explain(error, names, file) from None
    return config


def _tables(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {' '.join(str(error).split())}; correct that place") from None


def _based(tables: dict[str, Any], folder: Path, files: tuple[str, ...]) -> dict[str, Any]:
    """`tables` over those of the config that the key `base` names, table by table, and of its own base."""
    base = tables.pop("base", None)
    if base is None:
        return tables
    if not isinstance(base, str):
        raise ConfigError(f'{files[-1]}: base = {base!r}; name another config, base = "file.toml"')
    path = folder / base
    if str(path) in files or len(files) > MOST_BASES:
        raise ConfigError(f"{files[-1]}: base = {base!r} leads back to itself; remove it")
    below = _based(_tables(_read(path), str(path)), path.parent, (*files, str(path)))
    for name, value in tables.items():
        both = isinstance(value, dict) and isinstance(below.get(name), dict)
        below[name] = {**below[name], **value} if both else value
    return below


def _override(tables: dict[str, Any], override: str) -> tuple[tuple[str, ...], str]:
    """Set one value in place. Returns (its path, how error messages name it)."""
    where, equals, text = override.partition("=")
    keys = _keys(where)
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {override}: write --set table.key=value, for example spectrum.steps=30")
    place = tables
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override}: {key} already has a plain value; set that key itself")
    place[keys[-1]] = _value(text.strip())
    return keys, f"--set {override}"


def _keys(where: str) -> tuple[str, ...]:
    """The parts of TOML's dotted key, quoted ones too (`score.threshold."St. Bernard"`); bare ones may hold blanks."""
    try:
        place: Any = tomllib.loads(f"{where} = 0")
    except tomllib.TOMLDecodeError:
        return tuple(part.strip() for part in where.split("."))
    keys: tuple[str, ...] = ()
    while isinstance(place, dict) and len(place) == 1:  # none where TOML took it for a comment
        ((key, place),) = place.items()
        keys += (key,)
    return keys


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def to_toml(config: RunConfig) -> str:
    """The resolved config: every key paths absolute. Loading it again gives an equal config."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
