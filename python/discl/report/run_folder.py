"""One folder that `discl train`, `demo` or `generate` left: its config, store, metrics and the records of its runs."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from discl.config import RunConfig, load_config
from discl.config.sections import DataConfig
from discl.errors import ConfigError
from discl.store import Store


@dataclass(frozen=True)
class Run:
    """One folder: a store itself, or a run's folder with config.toml and, once trained, metrics.json."""

    folder: Path

    @cached_property
    def config(self) -> RunConfig | None:
        file = self.folder / "config.toml"
        return load_config(file) if file.is_file() else None

    @cached_property
    def data(self) -> DataConfig | None:
        """Where the sources lie: by the config, beside a store alone by what its newest run recorded."""
        if self.config:
            return self.config.data
        recorded = [record["config"]["data"] for record in self.records if (record.get("config") or {}).get("data")]
        try:
            return DataConfig.model_validate(recorded[-1]) if recorded else None
        except ValidationError:
            return None  # another version wrote it, and a report must not fail because its sources are out of reach

    @cached_property
    def store(self) -> Store | None:
        folder = self.config.store.path if self.config else self.folder
        return Store(folder) if (Path(folder) / "manifest").is_dir() else None

    @cached_property
    def metrics(self) -> dict[str, Any]:
        file = self.folder / "metrics.json"
        return _json(file) if file.is_file() else {}

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The store's runs, oldest first."""
        files = sorted((self.store.path / "runs").glob("*.json")) if self.store else []
        return [_json(file) for file in files]


def open_run(folder: str | os.PathLike) -> Run:
    run = Run(Path(folder))
    if run.config is None and run.store is None and not run.metrics:
        raise ConfigError(
            f"{folder}: neither a run's folder (config.toml, metrics.json) nor a store (manifest/); check the path"
        )
    return run


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); restore it or remove it") from error
