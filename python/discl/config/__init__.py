"""TOML file and overrides in, frozen `RunConfig` out; `to_toml` writes the resolved config back."""

from discl.config.errors import require_model
from discl.config.loading import load_config, parse_config, to_toml
from discl.config.sections import (
    BudgetConfig,
    CurriculumConfig,
    DataConfig,
    EngineConfig,
    HardConfig,
    ModelConfig,
    RunConfig,
    ScoreConfig,
    SpectrumConfig,
    StoreConfig,
    TrainConfig,
)
from discl.config.thresholds import Thresholds

__all__ = [
    "BudgetConfig",
    "CurriculumConfig",
    "DataConfig",
    "EngineConfig",
    "HardConfig",
    "ModelConfig",
    "RunConfig",
    "ScoreConfig",
    "SpectrumConfig",
    "StoreConfig",
    "Thresholds",
    "TrainConfig",
    "load_config",
    "parse_config",
    "require_model",
    "to_toml",
]
