"""A small project on disk (images in class folders, a config) and an engine that needs no network."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from discl.config import RunConfig, load_config
from discl.engine import Sample
from discl.generation import generate
from discl.store import Store

CLASSES = {"red fox": 3, "käfer": 2, "common": 6}
CONFIG = """
[data]
kind = "imagefolder"
root = "data"
max_bad_share = 0.5
[hard]
few_below = 4
[model]
path = "{models}/sd"
[spectrum]
levels = [0, 50]
seeds = 2
steps = 4
[score]
clip = "{models}/clip"
threshold = -1.0
[engine]
slots = 3
[store]
path = "store"
"""


def make_project(folder: Path, models: Path, classes: dict[str, int] = CLASSES, side: int = 32) -> Path:
    """Random pictures in folder/data/<class>/, and folder/run.toml, whose path is returned."""
    random = np.random.default_rng(0)
    for name, count in classes.items():
        place = folder / "data" / name
        place.mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    file = folder / "run.toml"
    file.write_text(CONFIG.replace("{models}", str(models)), encoding="utf-8")
    return file


def contents(store) -> dict[str, bytes | None]:
    """key -> encoded image (None where none was kept) of a whole store."""
    table = store.table.select(["key", "shard"]).to_pylist()
    return {row["key"]: None if row["shard"] is None else store.read(row["key"]) for row in table}


class FakeEngine:
    """Samples that depend on the request's key alone; every fifth is a `nan`. Yields in reverse pairs."""

    def __init__(self, config: RunConfig, slots: int | str):
        self.slots = 5 if slots == "auto" else slots
        self.scorer = SimpleNamespace(digest="5" * 32, same_text=lambda texts: None)
        self.scorer.embed_texts = lambda texts: torch.eye(8)[: len(texts)]
        self.stats = SimpleNamespace(seconds=Counter(), unet_evaluations=0, slot_occupancy=1.0)
        self.scored = config.score is not None

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *error) -> None:
        pass

    def run(self, requests):
        held = None
        for request in requests:
            if request is None:
                assert held is not None, "the feed waits although nothing is under way"
                yield self.sample(held)
                held = None
            elif held is not None:
                yield self.sample(request)
                yield self.sample(held)
                held = None
            else:
                held = request
        if held is not None:
            yield self.sample(held)

    def sample(self, request) -> Sample:
        random = np.random.default_rng(int.from_bytes(hashlib.sha256(request.key.encode()).digest()[:8], "big"))
        if random.random() < 0.2:
            return Sample(request, status="nan", reason="made up")
        image = random.integers(0, 256, (16, 24, 3), dtype=np.uint8)
        if not self.scored:
            return Sample(request, image=image)
        embedding = random.normal(size=8).astype(np.float32)
        embedding /= np.linalg.norm(embedding)
        return Sample(request, image, embedding, float(random.uniform(0.1, 0.5)), 0.5)


def loaded(file: Path, *overrides: str) -> RunConfig:
    return load_config(file, overrides)


def fake(file: Path, *overrides: str, on_event=None, make=FakeEngine) -> Store:
    return generate(loaded(file, *overrides), on_event, make=make)


def without_score(file: Path) -> Path:
    """The same project's config without [score]."""
    text = file.read_text()
    other = file.with_name("unscored.toml")
    other.write_text(text[: text.index("[score]")] + text[text.index("[engine]") :])
    return other


def runs(store: Store) -> list[dict]:
    """The records of a store's runs, oldest first."""
    return [json.loads(path.read_text()) for path in sorted((Path(store.path) / "runs").glob("*.json"))]


def no_engine(config, slots):
    raise AssertionError("the engine was loaded although nothing is missing")
