"""TOML file + overrides -> `RunConfig`, and back to TOML."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from discl.config.errors import check_available, explain
from discl.config.sections import RunConfig
from discl.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> RunConfig:
    """Read `path` (TOML), apply overrides `table.key=value` in order, validate, make paths absolute.

    Values of overrides are TOML (`spectrum.levels=[0, 50]`); what is not TOML is taken as a bare string
    (`model.path=hub:org/name`). Paths, in overrides too, are relative to the config's folder.
    Raises ConfigError in one line for a missing or malformed file, an unknown or unavailable key, a bad
    value.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name the config file inside it") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a UTF-8 text file ({error}); check the path") from None
    return parse_config(text, path.absolute().parent, str(path), overrides)


def parse_config(text: str, folder: Path, file: str = "config", overrides: Iterable[str] = ()) -> RunConfig:
    """The same for TOML text; `folder` is what its paths are relative to, `file` its name in messages."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {' '.join(str(error).split())}; correct that place") from None
    names = dict(_override(tables, override) for override in overrides)
    for table in RunConfig.model_fields:
        if table not in {"data", "score"}:
            tables.setdefault(table, {})
    try:
        config = RunConfig.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        raise explain(error, names, file) from None
    check_available(config, names, file)
    return config


def _override(tables: dict[str, Any], override: str) -> tuple[tuple[str, ...], str]:
    """Set one value in place. Returns (its path, how error messages name it)."""
    where, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in where.split("."))
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {override}: write --set table.key=value, for example spectrum.steps=30")
    place = tables
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override}: {key} already has a plain value; set that key itself")
    place[keys[-1]] = _value(text.strip())
    return keys, f"--set {override}"


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def to_toml(config: RunConfig) -> str:
    """The resolved config: every key paths absolute. Loading it again gives an equal config."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
