"""README's code runs as it stands, on random models of the named kinds in a folder with the named files."""

import re
from pathlib import Path

import pytest
import torch

from tests.engine.oracle import random_image
from tests.tiny import tiny_clip, tiny_sd

README = (Path(__file__).parent.parent / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CONFIG = re.search(r"```toml\n(.*?)```", README, re.DOTALL)[1]

TRAINER = """use_distributed_sampler=False, accelerator="cpu", logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """fox.jpg, photos/<class>/, stable-diffusion-v1-5/ and run.toml; the CLIP is a folder, not a download."""
    tiny_sd(tmp_path / "stable-diffusion-v1-5")
    tiny_clip(tmp_path / "clip")
    random_image(64, 64, seed=0).save(tmp_path / "fox.jpg")
    for split, count in (("train", 3), ("test", 1)):
        for number, name in enumerate(("fox", "hen")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                random_image(64, 64, seed=100 * number + 10 * count + i).save(folder / f"{i}.png")
    config = CONFIG.replace("ViT-B-32:openai", "clip").replace("threshold = 0.30", "threshold = -1.0")
    small = '[curriculum]\nepochs = 2\n[train]\nmodel = "digitnet"\nbatch = 8\n'
    (tmp_path / "run.toml").write_text(config.replace("[score]", "steps = 4\n[score]") + small)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on workers and devices
def test_the_python_blocks(project, capsys):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 2))
    names = {"network": network, "optimizer": torch.optim.SGD(network.parameters(), lr=1e-3)}
    with torch._dynamo.config.patch(disable=True):
        for block in CODE:
            block = block.replace("ViT-B-32:openai", "clip").replace("steps=50", "steps=4")
            exec(block.replace("use_distributed_sampler=False", TRAINER), names)
    assert len(capsys.readouterr().out.splitlines()) == 8 * 4
    assert names["pixels"].shape == (64, 64, 3)
    assert 0 <= names["metrics"]["overall"] <= 1
    assert len(names["dataset"]) == 6 + 6 * 4 * 4 and len(next(iter(names["sampler"]))) > 0
    assert (project / "run" / "report.html").is_file()
    steps = -(-names["sampler"].plan(0).total // 16) * names["sampler"].epochs
    assert names["trainer"].global_step == steps > 0
    assert names["sampler"].epoch == names["sampler"].epochs == 2  # timm's loop consumed what there is
    assert all(parameter.grad is None for parameter in names["model"].parameters())
