"""What a level costs: the plan's numbers are those that the engine then counts, for every solver, mode and interval."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discl.config import RunConfig, parse_config
from discl.engine import Engine, Request
from discl.errors import ConfigError
from discl.level_work import LevelWork, level_work
from discl.recipe import make_recipe, model_files, resolved
from tests.tiny import tiny_lcm, tiny_sd

CONFIG = '[data]\nkind = "imagefolder"\nroot = "."\n[spectrum]\nsteps = 6\nlevels = [0, 50]\n'


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_sd(root / "sd", seed=1)
    tiny_lcm(root / "lcm", seed=1)
    return root


def config_of(models: Path, *overrides: str) -> RunConfig:
    config = parse_config(CONFIG, models, overrides=["model.path=sd", *overrides])
    files = model_files(config)
    return resolved(config, files, make_recipe(config, files))


def counted(config: RunConfig) -> dict[int, LevelWork]:
    """By an engine that makes one image of each level alone."""
    spectrum = config.spectrum
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    found = {}
    with Engine.from_pretrained(
        config.model.path, slots=1, solver=spectrum.solver, mode=spectrum.mode, steps=spectrum.steps,
        text_guidance=spectrum.text_guidance, guidance_interval=spectrum.guidance_interval,
    ) as engine:  # fmt: skip
        for level in spectrum.levels:
            steps, evaluations = engine.stats.engine_steps, engine.stats.unet_evaluations
            list(engine.run([Request(image, "a", level, 1)]))
            done = engine.stats.engine_steps - steps
            found[level] = LevelWork(done, engine.stats.unet_evaluations - evaluations)
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        ["spectrum.solver=euler"],
        ["spectrum.solver=dpmpp-2m", "spectrum.guidance_interval=[0.3, 0.8]"],
        ["spectrum.solver=euler-ancestral", "spectrum.guidance_interval=[0, 0.5]", "spectrum.text_guidance=3"],
        ["spectrum.solver=lcm", "spectrum.mode=few-step", "spectrum.steps=4", "spectrum.guidance_interval=[0.2, 1]"],
        ["spectrum.mode=few-step", "spectrum.steps=4", "spectrum.text_guidance=1"],
        ["spectrum.mode=pure-noise", "spectrum.levels=[0]"],
        ["model.path=lcm", "spectrum.solver=lcm"],
    ],
)
def test_the_engine_counts_what_was_planned(models, overrides):
    config = config_of(models, *overrides)
    assert level_work(config.spectrum, model_files(config)) == counted(config)


def test_without_a_model_every_step_is_taken_as_guided():
    def work(*overrides: str):
        return level_work(parse_config(CONFIG, Path("/here"), overrides=overrides).spectrum)

    assert work() == {0: (6, 12), 50: (3, 6)}
    assert work("spectrum.text_guidance=1") == {0: (6, 6), 50: (3, 3)}
    assert work("spectrum.mode=few-step") == {0: (6, 12), 50: (6, 12)}
    assert work("spectrum.mode=pure-noise", "spectrum.levels=[0]") == {0: (6, 12)}


def test_a_level_that_cannot_be_made_names_what_can(models):
    for overrides, match in (
        (["spectrum.levels=[95]"], "at least steps=20"),
        (["spectrum.levels=[99]", "spectrum.mode=few-step", "spectrum.steps=50"], "at most steps=10"),
    ):
        config = config_of(models, *overrides)
        with pytest.raises(ConfigError, match=rf"^\[spectrum\] .*{match}"):
            level_work(config.spectrum, model_files(config))
