"""The model's keys of a config in a run: what is merged into the model, which solver and mode, and what names them."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from discl.cli import main
from discl.config import RunConfig, parse_config
from discl.engine import Engine, Request
from discl.errors import ConfigError
from discl.generation import generate
from discl.recipe import digest, make_recipe, recipe_of
from tests.adapters import save_embedding, save_lora
from tests.discl.project import FakeEngine, fake, loaded, make_project
from tests.engine.oracle import load_pipeline

LEAST = ["spectrum.seeds=1", "store.format=png"]
CONFIG = '[data]\nkind = "imagefolder"\nroot = "."\n[score]\n'


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models, {"red fox": 1})


@pytest.fixture
def adapters(tmp_path, tiny_models) -> dict[str, str]:
    """A LoRA and an embedding beside the config, as overrides."""
    save_lora(load_pipeline(tiny_models / "sd"), tmp_path / "lora", seed=5)
    vector = torch.randn(16, generator=torch.Generator().manual_seed(1))
    save_embedding(tmp_path / "word.safetensors", {"<hut>": vector})
    return {"loras": 'model.loras=["lora:0.5"]', "embeddings": 'model.embeddings=["word.safetensors:<den>"]'}


def parsed(text: str) -> RunConfig:
    return parse_config(CONFIG + text, Path("/here"), "run.toml")


def test_paths_of_adapters_are_relative_to_the_config():
    model = parsed(
        '[model]\nloras = ["fox.safetensors:0.5", "hub:someone/style"]\n'
        'embeddings = ["word.safetensors", "den.safetensors:<den>"]\n'
    ).model
    assert model.loras == ("/here/fox.safetensors:0.5", "hub:someone/style")
    assert model.embeddings == ("/here/word.safetensors", "/here/den.safetensors:<den>")
    assert parsed('[model]\nloras = ["a/folder", "hub:x/y:2"]\n').model.loras == ("/here/a/folder", "hub:x/y:2")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[model]\nloras = ["a.safetensors:nan"]\n', "not a finite number"),
        ('[model]\nloras = [""]\n', "give a path"),
        ('[model]\nembeddings = ["a.pt"]\n', "file.safetensors:word"),
        ('[model]\nembeddings = ["a.safetensors:"]\n', "file.safetensors:word"),
        ('[model]\nembeddings = ["a.safetensors", "a.safetensors"]\n', "appears twice"),
        ('[model]\npath = "folder"\nrevision = "main"\n', "hub:organisation/name"),
        ('[spectrum]\nmode = "pure-noise"\n', "set levels = [0]"),
        ('[spectrum]\nmode = "pure-noise"\nlevels = [0, 10]\n', "level 0 only"),
        ("[spectrum]\nguidance_interval = [0.5, 0.5]\n", "low must be less than high"),
        ("[spectrum]\nguidance_interval = [0.5, 1.5]\n", "less than or equal to 1"),
        ("[spectrum]\nguidance_interval = 0.5\n", "[low, high]"),
    ],
)
def test_what_a_model_or_mode_cannot_mean_is_named(text, part):
    with pytest.raises(ConfigError, match=r"^run\.toml: \[(model|spectrum)\]") as caught:
        parsed(text)
    assert part in str(caught.value)


def test_a_run_with_lora_and_embedding_makes_what_the_engine_makes_with_them(file, adapters, tiny_models):
    store = generate(loaded(file, *LEAST, *adapters.values(), "spectrum.prompt=a {class} <den>"))
    plain = generate(loaded(file, *LEAST, "spectrum.prompt=a {class} <den>", "store.path=plain"))
    folder = file.parent
    source = Image.open(folder / "data" / "red fox" / "0.png")
    options = {"loras": [f"{folder}/lora:0.5"], "embeddings": [f"{folder}/word.safetensors:<den>"]}
    with Engine.from_pretrained(tiny_models / "sd", steps=4, slots=3, text_guidance=10.0, **options) as engine:
        for row in store.table.to_pylist():
            (sample,) = engine.run([Request(source, row["prompt"], row["level"], row["noise_seed"])])
            np.testing.assert_array_equal(store.image(row["key"]), sample.image)
    assert not set(store.keys()) & set(plain.keys())


def test_adapters_count_by_their_bytes(file, adapters):
    def recipe(*overrides: str) -> str:
        return digest(make_recipe(loaded(file, *overrides)))

    both = [recipe(override) for override in adapters.values()]
    assert len({recipe(), *both, recipe(*adapters.values())}) == 4
    shutil.move(file.parent / "lora", file.parent / "elsewhere")
    assert recipe('model.loras=["elsewhere:0.5"]') == both[0]
    assert recipe('model.loras=["elsewhere"]') not in both
    (file.parent / "word.safetensors").rename(file.parent / "renamed.safetensors")
    assert recipe('model.embeddings=["renamed.safetensors:<den>"]') == both[1]
    assert recipe('model.embeddings=["renamed.safetensors"]') != both[1]


def test_what_is_not_used_leaves_old_keys_as_they_were():
    """The digest that version 0.1 gave to this config."""
    config = parse_config(CONFIG, Path("/here"))
    assert digest(recipe_of(config, "0" * 32)) == "a1ffacac041443bf37fba35cd16929a0"


@pytest.mark.parametrize(
    "overrides",
    [
        ["spectrum.solver=dpmpp-2m"], ["spectrum.solver=lcm"], ["spectrum.solver=euler-ancestral"],
        ["spectrum.mode=few-step"], ["spectrum.mode=pure-noise", "spectrum.levels=[0]"],
        ["spectrum.guidance_interval=[0.2, 0.8]"],
    ],
)  # fmt: skip
def test_every_solver_mode_and_interval_is_made_under_its_own_recipe(file, overrides):
    config = loaded(file, *LEAST, *overrides)
    store = generate(config)
    assert store.table["status"].unique().to_pylist() == ["ok"]
    assert digest(make_recipe(config)) not in {digest(make_recipe(loaded(file))), digest(recipe_of(config, ""))}
    assert set(store.table["recipe"].to_pylist()) == {digest(make_recipe(config))}


def test_the_nearest_solver_is_told_once(file, caplog, tiny_models):
    model = shutil.copytree(tiny_models / "sd", file.parent / "heun")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "HeunDiscreteScheduler"]}))
    with caplog.at_level(logging.WARNING):
        generate(loaded(file, *LEAST, "model.path=heun"))
    assert sum("nearest solver" in record.message for record in caplog.records) == 1


def test_loading_the_model_is_a_stage(file):
    events = []
    fake(file, on_event=events.append)
    assert [(e["stage"], e["done"], e["total"]) for e in events[:2]] == [("load model", 0, 1), ("load model", 1, 1)]


def test_the_model_that_was_found_is_the_one_that_is_loaded(file):
    """A hub id is looked up once: were it looked up again, other weights could stand behind the recipe."""
    seen = []

    class Seen(FakeEngine):
        def __init__(self, config, slots):
            seen.append((config.model.path, config.spectrum.solver))
            super().__init__(config, slots)

    store = fake(file, make=Seen)
    assert seen == [(loaded(file).model.path, "ddim")]
    (run,) = [json.loads(path.read_text()) for path in (Path(store.path) / "runs").glob("*.json")]
    assert run["config"]["spectrum"]["solver"] == "auto"


def test_plan_counts_modes_and_attempts(file, capfd):
    def planned(*overrides: str) -> str:
        assert main(["plan", str(file), *(part for override in overrides for part in ("--set", override))]) == 0
        return capfd.readouterr().out

    assert "UNet evaluations  24\n" in planned()  # one source, two seeds, (4 + 2) guided steps
    assert "UNet evaluations  32\n" in planned("spectrum.mode=few-step")
    text = planned("spectrum.best_of=2", "spectrum.retries=3")
    for line in ("attempts          2 to 5 per image", "images            8 to 20, of which 0 are in the store",
                 "UNet evaluations  48 to 120"):  # fmt: skip
        assert line in text
    half = planned("spectrum.guidance_interval=[0, 0.5]")
    assert 12 < int(half.split("UNet evaluations")[1].split()[0]) < 24
