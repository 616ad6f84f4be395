"""The loop learns, loses no whole step when it is stopped, resumes to the same bits, never recompiles."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from discl.checkpoint import Checkpoints
from discl.classifier import RECIPES, build_classifier, recipe_of
from discl.config import TrainConfig
from discl.dataset import SpectrumDataset
from discl.errors import ConfigError, ModelError, RunFailed
from discl.fitting import fit
from discl.learner import Learner
from discl.loader import CurriculumLoader
from discl.losses import IGNORED
from discl.sampler import CurriculumSampler
from discl.staging import padded
from discl.torch_loader import TorchLoader
from tests.discl.spectrum_samples import make_store, make_table
from tests.discl.test_curriculum import config as curriculum

KEYS = {"epochs": 4, "curriculum_epochs": 3, "nontail_share": 1.0}


@pytest.fixture
def data(tmp_path):
    return SpectrumDataset(make_store(tmp_path / "store"), make_table(tmp_path / "data"))


@pytest.fixture
def recipe():
    keys = {"loss": "ce", "lr": 3e-3, "optimizer": "adam", "weight_decay": 1e-4}
    return SimpleNamespace(**(TrainConfig().model_dump() | keys))


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


def test_padding_fills_the_batch_and_leaves_the_gradient():
    batch = {"image": torch.randn(3, 1, 8, 8), "label": torch.tensor([0, 1, 2])}
    images, labels = padded(batch, 8)
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
    learner = Learner("digitnet", 2, 8, compile=False)
    history = fit(learner, source, recipe, lambda: {"n": next(measured)}, events.append)
    assert [record["levels"] for record in history] == [[0], [0], [50], []]
    assert [record["steps"] for record in history] == [4, 8, 12, 16]
    assert [record["val"]["n"] for record in history] == [0, 1, 2, 3]
    assert [event["event"] for event in events] == [*["progress"] * 4, "epoch"] * 4
    assert [event["step"] for event in events if event["event"] == "progress"] == [1, 2, 3, 4] * 4
    assert [event for event in events if event["event"] == "epoch"] == [{"event": "epoch", **r} for r in history]


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
    assert untimed(history) == untimed(whole)


def untimed(history):
    return [{name: value for name, value in record.items() if name not in ("seconds", "spent")} for record in history]


class Stopped(BaseException):
    """As an interrupt: no Exception."""


def stopping(call, after, *, before=False):
    """`call`, raising at its call number `after` (from 1): when it has returned, or before it began."""
    calls = iter(range(1, after + 1))

    def wrapped(*args):
        last = next(calls) == after
        if last and before:
            raise Stopped
        result = call(*args)
        if last:
            raise Stopped
        return result

    return wrapped


@pytest.mark.parametrize("number", [1, 2, 4, 5, 7, 20])
@pytest.mark.parametrize("place", ["event", "validation", "forward", "loading", "optimizer"])
def test_whatever_stops_a_training_loses_no_whole_step(tmp_path, monkeypatch, data, recipe, place, number):
    """Call `number` of 20 events, 16 forward passes and steps, or 4 validations is not survived."""
    number = -(-number // 5) if place == "validation" else min(number, 20 if place == "event" else 16)

    def validate():
        return {"answer": 42}

    learner = Learner("digitnet", 2, 8, compile=False)
    learner.reset(1)
    whole = fit(learner, loader(data), recipe, validate)
    expected = weights(learner)

    learner.reset(1)
    source, listen, check, checkpoints = loader(data), lambda event: None, validate, Checkpoints(tmp_path, "run")
    with monkeypatch.context() as patch:
        if place == "event":
            listen = stopping(listen, number)
        elif place == "validation":
            check = stopping(validate, number)
        elif place == "forward":  # it has moved the batch norms' statistics by then
            patch.setattr(learner, "loss", stopping(learner.loss, number))
        elif place == "loading":
            patch.setattr(source.sampler, "advance", stopping(source.sampler.advance, number))
        else:
            patch.setattr(torch.optim.Adam, "step", stopping(torch.optim.Adam.step, number, before=True))
        with pytest.raises(Stopped):
            fit(learner, source, recipe, check, listen, checkpoints)
    state = checkpoints.state()
    whole_steps = number - number // 5 if place == "event" else number * 4 if place == "validation" else number - 1
    if place == "optimizer":  # the weights may be half a step further: nothing is kept
        assert state is None
    elif whole_steps:
        assert state["sampler"]["epoch"] * 4 + state["sampler"]["step"] == whole_steps
    else:
        assert state is None

    learner.reset(1 if state is None else 2)
    history = fit(learner, loader(data), recipe, validate, checkpoints=Checkpoints(tmp_path, "run"))
    assert_equal(weights(learner), expected)
    assert untimed(history) == untimed(whole)


@pytest.mark.parametrize("number", [3, 5, 11])
def test_batches_that_a_thread_makes_ahead_change_nothing(tmp_path, data, recipe, number):
    """Also when the training is stopped at event `number` with batches of this epoch or the next in the queue."""

    def source(ahead):
        sampler = CurriculumSampler(data, curriculum("diverse-to-specific", **KEYS), 8, 0)
        made = CurriculumLoader(data, sampler, RECIPES["digitnet"].train)
        made.ahead = ahead
        return made

    learner = Learner("digitnet", 2, 8, compile=False)
    learner.reset(1)
    whole = fit(learner, source(0), recipe)
    expected = weights(learner)
    learner.reset(1)
    threads = threading.active_count()
    with pytest.raises(Stopped):
        fit(learner, source(3), recipe, None, stopping(lambda event: None, number), Checkpoints(tmp_path, "run"))
    assert threading.active_count() <= threads
    history = fit(learner, source(3), recipe, checkpoints=Checkpoints(tmp_path, "run"))
    assert_equal(weights(learner), expected)
    assert untimed(history) == untimed(whole)


def test_a_checkpoint_that_cannot_be_written_does_not_hide_what_stopped_the_training(tmp_path, data, recipe, caplog):
    (tmp_path / "file").write_text("")
    listen = stopping(lambda event: None, 3)
    with pytest.raises(Stopped):
        checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
        fit(Learner("digitnet", 2, 8, compile=False), loader(data), recipe, None, listen, checkpoints)
    assert "the last checkpoint could not be written" in caplog.text


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


def test_a_diverging_loss_stops_the_run(tmp_path, data, recipe):
    recipe.lr, recipe.optimizer = 1e30, "sgd"
    with pytest.raises(RunFailed, match=r"the loss is .* lower train\.lr"):
        fit(Learner("digitnet", 2, 8, compile=False), loader(data), recipe, checkpoints=Checkpoints(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


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
