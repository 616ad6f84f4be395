"""The loop learns, resumes to the same bits, never recompiles; `train` leaves a folder that reproduces it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from discl.checkpoint import Checkpoints, read_tensors
from discl.classifier import RECIPES, build_classifier, recipe_of
from discl.config import load_config
from discl.dataset import SpectrumDataset
from discl.errors import ConfigError, ModelError, RunFailed
from discl.fitting import Learner, fit, padded, set_rate
from discl.losses import IGNORED
from discl.sampler import CurriculumSampler
from discl.torch_loader import TorchLoader
from discl.training import train
from tests.discl.spectrum_samples import make_store, make_table
from tests.discl.test_curriculum import config as curriculum

KEYS = {"epochs": 4, "curriculum_epochs": 3, "nontail_share": 1.0}


@pytest.fixture
def data(tmp_path):
    return SpectrumDataset(make_store(tmp_path / "store"), make_table(tmp_path / "data"))


@pytest.fixture
def recipe():
    return SimpleNamespace(loss="ce", lr=3e-3, optimizer="adam", weight_decay=1e-4)


def loader(data, seed=0, batch=8, policy="diverse-to-specific", **keys):
    sampler = CurriculumSampler(data, curriculum(policy, **(KEYS | keys)), batch, seed)
    return TorchLoader(data, sampler, RECIPES["digitnet"].train)


def weights(learner):
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_weights_depend_on_the_seed_alone(name):
    before = torch.random.get_rng_state()
    first, again, other = (build_classifier(name, 3, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert_equal(first, again)
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


def test_networks_are_the_papers_and_small():
    def count(name, classes):
        return sum(p.numel() for p in build_classifier(name, classes, 0).parameters())

    assert count("resnet18", 1000) == 11_689_512  # torchvision's own
    assert count("resnet10", 1000) == 5_418_792
    assert count("digitnet", 10) < 100_000
    with pytest.raises(ConfigError, match=r"train\.model = 'vgg'; expected one of resnet10"):
        recipe_of("vgg")


@pytest.mark.parametrize("size", [8, 16, 32])
def test_digitnet_takes_several_sizes(size):
    assert build_classifier("digitnet", 10, 0)(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_the_rate_falls_along_a_cosine():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=9.0)
    rates = []
    for step in range(4):
        set_rate(optimizer, 0.1, step, 4)
        rates.append(optimizer.param_groups[0]["lr"])
    half = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(half, T_max=4)
    for rate in rates:
        assert rate == pytest.approx(schedule.get_last_lr()[0])
        half.step()
        schedule.step()


def test_padding_fills_the_batch_and_leaves_the_gradient():
    batch = {"image": torch.randn(3, 1, 8, 8), "label": torch.tensor([0, 1, 2])}
    images, labels = padded(batch, 8, torch.device("cpu"))
    assert labels.tolist() == [0, 1, 2] + [IGNORED] * 5
    assert torch.equal(images[3:6], batch["image"])
    learner = Learner("digitnet", 3, 8, compile=False)
    gradients = []
    for x, y in [(images, labels), (batch["image"], batch["label"])]:
        learner.model.zero_grad()
        learner.loss(x, y, torch.zeros(3)).backward()
        gradients.append([p.grad.clone() for p in learner.model.parameters()])
    torch.testing.assert_close(*gradients)


def test_it_learns_to_tell_the_classes_apart(data, recipe):
    for path, label in zip(data.paths, data.labels, strict=False):
        stripes = np.zeros((8, 8), np.uint8)
        stripes[::2] = 255
        Image.fromarray(stripes.T if label else stripes).save(path)
    history = fit(Learner("digitnet", 2, 8, compile=False), loader(data, policy="real-only"), recipe)
    assert history[0]["loss"] > 0.2 > 0.05 > history[-1]["loss"]


def test_records_tell_the_levels_and_steps(data, recipe):
    measured = iter(range(4))
    events = []
    source = loader(data)
    history = fit(
        Learner("digitnet", 2, 8, compile=False), source, recipe, lambda: {"n": next(measured)}, events.append
    )
    assert [record["levels"] for record in history] == [[0], [0], [50], []]
    assert [record["steps"] for record in history] == [4, 8, 12, 16]
    assert [record["val"]["n"] for record in history] == [0, 1, 2, 3]
    assert [event["event"] for event in events] == ["epoch"] * 4


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, data, recipe, optimizer, stop):
    recipe.optimizer = optimizer
    learner = Learner("digitnet", 2, 8, compile=False)
    learner.reset(1)
    whole = fit(learner, loader(data), recipe)
    expected = weights(learner)

    class Killed(Exception):
        pass

    class Killer(Checkpoints):
        def write(self, *state):
            super().write(*state)
            self.left -= 1
            if not self.left:
                raise Killed

    killer = Killer(tmp_path, "run", seconds=0)
    killer.left = stop
    learner.reset(1)
    with pytest.raises(Killed):
        fit(learner, loader(data), recipe, checkpoints=killer)

    learner.reset(2)
    history = fit(learner, loader(data), recipe, checkpoints=Checkpoints(tmp_path, "run"))
    assert_equal(weights(learner), expected)
    assert [record["epoch"] for record in history] == [record["epoch"] for record in whole]
    assert history[-1]["loss"] == whole[-1]["loss"]


def test_one_compilation_serves_partial_batches_and_new_trainings(data, recipe):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    learner = Learner("digitnet", 2, 8)
    losses = []
    for loss in ("ce", "balanced-softmax", "ce"):
        recipe.loss = loss
        learner.reset(0)
        losses.append(fit(learner, loader(data, tail_share=0.25), recipe)[-1]["loss"])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert losses[0] == losses[2] != losses[1]
    eager = Learner("digitnet", 2, 8, compile=False)
    recipe.loss = "ce"
    assert fit(eager, loader(data, tail_share=0.25), recipe)[-1]["loss"] == pytest.approx(losses[0], rel=1e-3)


def test_a_diverging_loss_stops_the_run(data, recipe):
    recipe.lr, recipe.optimizer = 1e30, "sgd"
    with pytest.raises(RunFailed, match=r"the loss is .* lower train\.lr"):
        fit(Learner("digitnet", 2, 8, compile=False), loader(data), recipe)


def test_checkpoints_of_other_runs_and_damaged_ones(tmp_path, data, recipe):
    learner = Learner("digitnet", 2, 8, compile=False)
    fit(learner, loader(data), recipe, checkpoints=Checkpoints(tmp_path, "one"))
    with pytest.raises(ConfigError, match="belongs to a run with another config"):
        fit(learner, loader(data), recipe, checkpoints=Checkpoints(tmp_path, "two"))
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="cannot be read as a safetensors file"):
        fit(learner, loader(data), recipe, checkpoints=Checkpoints(tmp_path, "one"))


def test_initial_weights_from_a_checkpoint(tmp_path, data, recipe):
    learner = Learner("digitnet", 2, 8, compile=False)
    fit(learner, loader(data), recipe, checkpoints=Checkpoints(tmp_path))
    trained = weights(learner)
    learner.reset(0)
    learner.reset(0, init=tmp_path / "last.safetensors")
    assert_equal(weights(learner), trained)
    with pytest.raises(ModelError, match=r"head\.bias has shape \[2\], the model wants \[3\]"):
        Learner("digitnet", 3, 8, compile=False).reset(0, init=tmp_path / "last.safetensors")


def write_config(folder, text):
    (folder / "config.toml").write_text(text)
    return load_config(folder / "config.toml")


DIGITS = """
[data]
kind = "digits-lt"
root = "digits"
[hard]
few_below = 10
many_from = 30
[curriculum]
policy = "real-only"
epochs = 3
curriculum_epochs = 2
nontail_share = 1.0
[train]
model = "digitnet"
batch = 32
lr = 2e-3
device = "cpu"
"""


def test_train_leaves_a_folder_that_reproduces_it(tmp_path):
    events = []
    result = train(write_config(tmp_path, DIGITS), tmp_path / "out", events.append)
    out = tmp_path / "out"
    assert json.loads((out / "metrics.json").read_text()) == result
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [event["epoch"] for event in events] == [0, 1, 2]
    assert result["steps"] == 18
    assert result["overall"] == result["splits"]["test"]["overall"] > 0.2
    assert lines[-1]["val"] == result["splits"]["val"]
    tensors, state = read_tensors(out / "checkpoints" / "last.safetensors")
    assert state["sampler"]["epoch"] == 3

    again = train(load_config(out / "config.toml"), tmp_path / "again")
    assert again == result
    tensors_again, _ = read_tensors(tmp_path / "again" / "checkpoints" / "last.safetensors")
    assert_equal(tensors, tensors_again)
    assert train(load_config(out / "config.toml"), out) == result  # finished: nothing is trained again


def test_train_draws_from_the_store_and_records_its_snapshot(tmp_path):
    table, store = make_table(tmp_path / "data"), make_store(tmp_path / "spectrum")
    lines = [
        f"{name},{label},{table.class_names[label]},{split}"
        for name, label, split in zip(table.ids, table.labels, table.splits, strict=True)
    ]
    (tmp_path / "data" / "data.csv").write_text("\n".join(["path,label,class_name,split", *lines]))
    config = write_config(
        tmp_path,
        DIGITS.replace('"digits-lt"', '"csv"').replace('"digits"', '"data/data.csv"').replace("32", "8")
        .replace("real-only", "all-level") + '[spectrum]\nlevels = [0, 50]\n[store]\npath = "spectrum"\n',
    )  # fmt: skip
    levels = []
    result = train(config, tmp_path / "out", lambda event: levels.append(event["levels"]))
    assert levels == [[0, 50], [0, 50], []]
    assert result["snapshot"] == store.snapshot()
    assert result["policy"] == "all-level"


def test_what_train_refuses(tmp_path):
    config = write_config(tmp_path, DIGITS.replace("real-only", "adaptive"))
    with pytest.raises(ConfigError, match="'adaptive' needs a probe"):
        train(config, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*cannot be written"):
        train(write_config(tmp_path, DIGITS), tmp_path / "file" / "out")


@pytest.mark.gpu
def test_bfloat16_training_on_the_device(data, recipe):
    learner = Learner("digitnet", 2, 8, device="cuda")
    history = fit(learner, loader(data), recipe)
    assert np.isfinite(history[-1]["loss"])
    assert all(p.dtype == torch.float32 for p in learner.model.parameters())


def test_equal_steps_for_every_policy(data):
    counts = {
        policy: len(CurriculumSampler(data, curriculum(policy, level=50, **KEYS), 8, 0))
        for policy in ("none", "real-only", "all-level", "fixed", "text-only", "diverse-to-specific")
    }
    assert len(set(counts.values())) == 1, counts
    assert np.unique(list(counts.values())) == [4]
