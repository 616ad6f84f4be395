"""Recipe and key: equal for equal wishes on every machine, different when what shapes pixels differs."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from discl.config import parse_config
from discl.errors import ConfigError, ModelError
from discl.recipe import digest, make_recipe, recipe_of, sample_key, source_digests

CONFIG = '[data]\nkind = "imagefolder"\nroot = "."\n[score]\n'
WISH = {
    "source": "a" * 32,
    "recipe": "b" * 32,
    "prompt": "p",
    "negative_prompt": "",
    "level": 10,
    "seed": 20,
    "retry": 0,
}


def recipe(*overrides: str) -> dict:
    return recipe_of(parse_config(CONFIG, Path("/here"), "run.toml", overrides), "0" * 32)


def test_a_key_is_32_hex_and_depends_on_every_part():
    keys = [sample_key(**WISH)]
    for name, value in WISH.items():
        other = value + 1 if isinstance(value, int) else value + "x"
        keys.append(sample_key(**{**WISH, name: other}))
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)
    assert sample_key(**{**WISH, "level": 1, "seed": 12}) != sample_key(**{**WISH, "level": 11, "seed": 2})


def test_the_same_key_in_another_process():
    code = f"from discl.recipe import sample_key; print(sample_key(**{WISH!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == sample_key(**WISH)


@pytest.mark.parametrize(
    "override",
    [
        "spectrum.steps=30", "spectrum.text_guidance=7.5", "spectrum.solver=euler", "spectrum.size=[64, 64]",
        "model.dtype=bfloat16", "model.backend=torch-compile",
    ],
)  # fmt: skip
def test_what_shapes_pixels_is_in_the_recipe(override):
    assert digest(recipe(override)) != digest(recipe())


@pytest.mark.parametrize(
    "override",
    [
        "spectrum.levels=[0]", "spectrum.seeds=[1]", "spectrum.prompt=x", "engine.slots=3",
        "score.threshold=0.1", "store.quality=80", "train.lr=1.0", "hard.few_below=3", "model.path=elsewhere",
    ],
)  # fmt: skip
def test_what_does_not_is_not(override):
    assert digest(recipe(override)) == digest(recipe())


def test_the_policy_matters_only_with_a_size():
    assert digest(recipe("spectrum.size_policy=crop")) == digest(recipe())
    sized = "spectrum.size=[64, 64]"
    assert digest(recipe(sized, "spectrum.size_policy=crop")) != digest(recipe(sized))


def test_digest_is_canonical():
    assert digest({"b": 1, "a": "ä"}) == digest({"a": "ä", "b": 1})
    assert digest([1, 23]) != digest([12, 3])


def test_source_digest_and_noise_seeds_are_blake2b_of_the_bytes():
    data = b"some image bytes"
    found, noise = source_digests(data, (0, 20, 2**63 - 1))
    assert found == hashlib.blake2b(data, digest_size=16).hexdigest()
    for seed, value in zip((0, 20, 2**63 - 1), noise, strict=True):
        salted = hashlib.blake2b(data + seed.to_bytes(8, "little"), digest_size=4).digest()
        assert value == int.from_bytes(salted, "big") < 2**32


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="path is missing"):
        make_recipe(parse_config(CONFIG, tmp_path))
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        with pytest.raises(ModelError, match=name):
            make_recipe(parse_config(CONFIG, tmp_path, overrides=[f"model.path={name}"]))


def test_auto_and_the_solver_that_it_means_are_one_recipe(tmp_path, tiny_models):
    def made(*overrides: str) -> dict:
        return make_recipe(parse_config(CONFIG, tmp_path, overrides=[f"model.path={model}", *overrides]))

    model = tmp_path / "sd"
    shutil.copytree(tiny_models / "sd", model)
    index = json.loads((model / "model_index.json").read_text())
    for scheduler, solver in {"DDIMScheduler": "ddim", "EulerDiscreteScheduler": "euler"}.items():
        (model / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", scheduler]}))
        assert made()["solver"] == solver
        assert made(f"spectrum.solver={solver}") == made()
        assert digest(made(f"spectrum.solver={({'ddim', 'euler'} - {solver}).pop()}")) != digest(made())
