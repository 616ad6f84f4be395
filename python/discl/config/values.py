"""The value types of the config: TOML values in, absolute paths, tuples and seeds (also by count) out.

Validators read the config's folder from pydantic's validation context: `{"folder": Path}`.
"""

import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

PAPER_SEEDS = (10, 20, 30, 40, 42, 50, 60, 70)
LARGEST_SEED = 2**63 - 1


def absolute(value: str, info: ValidationInfo) -> str:
    """A path relative to the config's folder -> absolute; `~` is the home folder; "" stays "" (not given)."""
    if not value:
        return value
    folder = (info.context or {}).get("folder") or Path.cwd()
    return os.path.abspath(os.path.join(folder, os.path.expanduser(value)))


def absolute_or_url(value: str, info: ValidationInfo) -> str:
    """`s3://bucket/folder` and the like stay as they are; everything else is a path."""
    return value if "://" in value else absolute(value, info)


def absolute_or_hub(value: str, info: ValidationInfo) -> str:
    """`hub:org/name` stays as it is; everything else is a path."""
    if not value.startswith("hub:"):
        return absolute(value, info)
    if len([part for part in value[4:].partition("@")[0].split("/") if part]) != 2:
        raise ValueError("a hub id reads hub:organisation/name")
    return value


def absolute_lora(value: str, info: ValidationInfo) -> str:
    """`file.safetensors`, `folder` or `hub:org/name`, with `:weight` behind it or not."""
    name, colon, weight = value.rpartition(":")
    try:
        factor = float(weight) if colon else 1.0
    except ValueError:
        name, colon, weight, factor = value, "", "", 1.0
    if not math.isfinite(factor):
        raise ValueError(f"the weight {weight} is not a finite number")
    return absolute_or_hub(_given(name if colon else value), info) + colon + (weight if colon else "")


def absolute_embedding(value: str, info: ValidationInfo) -> str:
    """`file.safetensors`, with `:word` behind it or not."""
    name, suffix, word = value.partition(".safetensors")
    if not suffix or (word and not word[1:]) or word[:1] not in {"", ":"}:
        raise ValueError("write 'file.safetensors' or 'file.safetensors:word'")
    return absolute(name + suffix, info) + word


def absolute_clip(value: str, info: ValidationInfo) -> str:
    """The four forms of design 6: `NAME:tag`, `NAME:file.safetensors`, `hf-hub:org/name`, or a folder."""
    if value.startswith("hf-hub:"):
        return value
    name, colon, weights = value.partition(":")
    if not colon:
        return absolute(value, info)
    if not name or not weights:
        raise ValueError("write 'MODEL:tag', 'MODEL:file.safetensors', 'hf-hub:org/name' or a folder")
    if weights.endswith((".bin", ".pt", ".pth", ".ckpt")):
        raise ValueError("only .safetensors weights are loaded; convert the file first")
    return f"{name}:{absolute(weights, info)}" if weights.endswith(".safetensors") else value


def absolute_model(value: str, info: ValidationInfo) -> str:
    """A classifier's name; of `clip:NAME` the NAME is as for scoring."""
    return f"clip:{absolute_clip(value[5:], info)}" if value.startswith("clip:") else value


def first_seeds(count: int) -> tuple[int, ...]:
    """The paper's eight seeds, then 80, 90, 100, ..."""
    more = range(80, 80 + 10 * max(0, count - len(PAPER_SEEDS)), 10)
    return (*PAPER_SEEDS[:count], *more)


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= 1_000_000:
            raise ValueError("a number of seeds lies in 1..1000000; a single seed is written [10]")
        return first_seeds(value)
    return _tuple(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, Path) else value


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values:
        raise ValueError("give at least one value")
    repeated = [value for value, times in Counter(values).items() if times > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} appears twice; name each once")
    return values


def _level(value: int) -> int:
    if value == 100:
        raise ValueError("100 means the real image, which is never generated; levels are 0..99")
    if not 0 <= value <= 99:
        raise ValueError(f"{value} is no level; levels are image guidance in whole percent, 0..99")
    return value


def _size(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("write [width, height]")
    return tuple(value)


def _not_huge(value: tuple[int, int]) -> tuple[int, int]:
    from discl.engine.pixels import MAX_PIXELS

    if value[0] * value[1] > MAX_PIXELS:
        raise ValueError(f"{value[0]} x {value[1]} is more than {MAX_PIXELS:,} pixels")
    return value


def _distinct_words(values: tuple[str, ...]) -> tuple[str, ...]:
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{value} appears twice; name each once")
    return values


def _interval(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("write [low, high], shares of the training timesteps")
    return tuple(value)


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] >= value[1]:
        raise ValueError("low must be less than high")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("should be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return value


def _given(value: str) -> str:
    if not value:
        raise ValueError("give a path")
    return value


def _named(value: str) -> str:
    if not value:
        raise ValueError("name a CLIP, or leave the table [score] out: then nothing is scored")
    return value


OptionalPath = Annotated[str, BeforeValidator(_path), AfterValidator(absolute)]
FolderOrUrl = Annotated[str, BeforeValidator(_path), AfterValidator(_given), AfterValidator(absolute_or_url)]
OptionalFolderOrUrl = Annotated[str, BeforeValidator(_path), AfterValidator(absolute_or_url)]
FolderOrHub = Annotated[str, BeforeValidator(_path), AfterValidator(absolute_or_hub)]
Clip = Annotated[str, BeforeValidator(_path), AfterValidator(_named), AfterValidator(absolute_clip)]
Classifier = Annotated[str, AfterValidator(absolute_model)]
Level = Annotated[int, AfterValidator(_level)]
Levels = Annotated[tuple[Level, ...], BeforeValidator(_tuple), AfterValidator(_distinct)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_seeds), AfterValidator(_distinct)]
Side = Annotated[int, Field(ge=1, le=16384)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_size), AfterValidator(_not_huge)]
Device = Annotated[str, AfterValidator(_device)]
Lora = Annotated[str, AfterValidator(absolute_lora)]
Loras = Annotated[tuple[Lora, ...], BeforeValidator(_tuple)]
Embedding = Annotated[str, AfterValidator(absolute_embedding)]
Embeddings = Annotated[tuple[Embedding, ...], BeforeValidator(_tuple), AfterValidator(_distinct_words)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Interval = Annotated[tuple[Share, Share], BeforeValidator(_interval), AfterValidator(_ordered)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Money = Annotated[float, Field(ge=0.0)]
