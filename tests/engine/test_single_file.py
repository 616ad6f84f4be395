"""One checkpoint in the original layout makes what the diffusers folder with the same weights makes."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from discl.engine.pretrained import load_model
from discl.engine.pretrained.digest import model_digest
from discl.engine.pretrained.files import find_model
from discl.errors import ModelError
from tests.ldm_layout import save_single_file
from tests.tiny import tiny_sd, tiny_sd2, tiny_sdxl

CPU = torch.device("cpu")
FAMILIES = {
    "sd1": tiny_sd,
    "sd2": tiny_sd2,
    "sdxl": tiny_sdxl,
    "sdxl-refiner": lambda folder, seed: tiny_sdxl(folder, seed, refiner=True),
}


@pytest.fixture
def checkpoint(tmp_path):
    return save_single_file(tiny_sd(tmp_path / "folder", 4), tmp_path / "some model v2.1.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_folder(tmp_path, family, dtype):
    folder = FAMILIES[family](tmp_path / "folder", 4)
    file = save_single_file(folder, tmp_path / "model.safetensors")
    shutil.copy(file, tmp_path / "another.safetensors")
    ours, theirs = (load_model(path, CPU, dtype) for path in (file, folder))
    for name, module in theirs.pipe.components.items():
        if isinstance(module, torch.nn.Module):
            torch.testing.assert_close(ours.pipe.components[name].state_dict(), module.state_dict(), rtol=0, atol=0)
            assert ours.pipe.components[name].dtype == module.dtype
    assert ours.scheduler_config == theirs.scheduler_config
    settings = ("requires_aesthetics_score", "force_zeros_for_empty_prompt")
    assert [ours.pipe.config.get(name) for name in settings] == [theirs.pipe.config.get(name) for name in settings]
    if dtype == torch.float32:
        for negative in (False, True):
            assert torch.equal(ours.encode_text("", negative).states, theirs.encode_text("", negative).states)


def test_nothing_is_said(checkpoint):
    """In a process of its own: diffusers' log writes to the stderr that was there when it was imported."""
    code = """
import sys, torch
from discl.engine.pretrained import load_model
load_model(sys.argv[1], torch.device("cpu"), torch.float32)
"""
    told = subprocess.run([sys.executable, "-c", code, checkpoint], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("", "")


def test_the_digest_covers_file_and_configuration(checkpoint):
    before = model_digest(find_model(checkpoint))
    renamed = checkpoint.with_name("renamed.safetensors")
    shutil.copy(checkpoint, renamed)
    shutil.copytree(checkpoint.with_suffix(""), renamed.with_suffix(""))
    assert model_digest(find_model(renamed)) == before
    scheduler = renamed.with_suffix("") / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    save_file({name: 2 * value for name, value in load_file(checkpoint).items()}, checkpoint)
    assert len({before, model_digest(find_model(renamed)), model_digest(find_model(checkpoint))}) == 3


def test_configuration_from_the_hub_cache(checkpoint, tmp_path, monkeypatch):
    """A file that looks like Stable Diffusion 1.x takes the configuration of that id, if the cache has it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    expected = load_model(checkpoint, CPU, torch.float32)
    repository = tmp_path / "cache/models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    checkpoint.with_suffix("").rename(repository / "snapshots" / ("0" * 40))
    ours = load_model(checkpoint, CPU, torch.float32)
    torch.testing.assert_close(ours.unet.state_dict(), expected.unet.state_dict(), rtol=0, atol=0)
    assert ours.digest == expected.digest


def test_what_cannot_be_loaded_is_named(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    weights, beside = load_file(checkpoint), checkpoint.with_suffix("")

    def refused(file, message):
        with pytest.raises(ModelError, match=message) as caught:
            load_model(file, CPU, torch.float32)
        assert "\n" not in str(caught.value)

    def variation(name: str, tensors) -> object:
        save_file(tensors, tmp_path / f"{name}.safetensors")
        shutil.copytree(beside, tmp_path / name, dirs_exist_ok=True)
        return tmp_path / f"{name}.safetensors"

    refused(tmp_path / "nowhere.safetensors", "not a file")
    refused(tmp_path / "model.ckpt", "pickle")
    for dropped in ("model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_in.bias"):
        refused(variation("hole", {name: value for name, value in weights.items() if name != dropped}), "hole")
    no_text = {name: value for name, value in weights.items() if not name.startswith("cond_stage")}
    refused(variation("silent", no_text), "silent")
    wide = dict(weights) | {"model.diffusion_model.out.2.weight": torch.zeros(4, 8, 3, 3)}
    refused(variation("wide", wide), "wide.safetensors cannot be loaded")
    cut = variation("cut", weights)
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    refused(cut, "cut.safetensors")
    shutil.rmtree(tmp_path / "cut")
    refused(cut, "can be read")
    shutil.rmtree(beside)
    refused(checkpoint, "put the folder .*some model v2.1 beside it")
