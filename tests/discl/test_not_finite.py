"""A loss that is no number stops the training soon, names what was in the batch, and leaves the last good weights."""

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from discl.checkpoint import Checkpoints, part, read_tensors
from discl.errors import RunFailed
from discl.fitting import CHECK_EVERY, fit
from discl.learner import Learner
from tests.discl.test_fitting import data, loader, recipe  # noqa: F401

EPOCHS = {"epochs": 20, "curriculum_epochs": 15}


def poisoned(source, at):
    """The loader, with a nan in an image of its batch number `at` (from 0)."""
    number = iter(range(at, -1, -1))
    iterate = type(source).__iter__

    class Poisoned(type(source)):
        def __iter__(self):
            for batch in iterate(self):
                if not next(number, 1):
                    batch["image"][0] = float("nan")
                    self.poison = batch["id"]
                yield batch

    source.__class__ = Poisoned
    return source


@pytest.mark.parametrize("at", [0, 2, 3, 4, 61])
def test_the_batch_is_named(data, recipe, at):  # noqa: F811
    learner, events = Learner("digitnet", 2, 8, compile=False), []
    source = poisoned(loader(data, **EPOCHS), at)
    with pytest.raises(RunFailed, match=rf"the loss is nan in epoch {at // 4}, step {at % 4 + 1}; lower") as failure:
        fit(learner, source, recipe, on_event=events.append)
    assert all(name in str(failure.value) for name in source.poison)
    assert events[-1]["event"] == "not-finite" and events[-1]["ids"] == source.poison
    assert sum(event["event"] == "progress" for event in events) <= at + CHECK_EVERY
    assert "\n" not in str(failure.value)


def test_a_long_epoch_is_stopped_within_it(data, recipe, monkeypatch):  # noqa: F811
    events = []
    monkeypatch.setattr("discl.fitting.CHECK_EVERY", 5)
    source = poisoned(loader(data, batch=2, **EPOCHS), 2)
    with pytest.raises(RunFailed, match="epoch 0, step 3"):
        fit(Learner("digitnet", 2, 2, compile=False), source, recipe, on_event=events.append)
    assert [event["event"] for event in events] == [*["progress"] * 4, "not-finite"]
    assert len(source) > 5


@pytest.mark.parametrize("due", [0, 1e9])
def test_the_last_good_checkpoint_stays(tmp_path, data, recipe, due):  # noqa: F811
    """Written after every step, and once an epoch is over."""
    checkpoints, source = Checkpoints(tmp_path / "run", seconds=due), poisoned(loader(data, **EPOCHS), 6)
    with pytest.raises(RunFailed):
        fit(Learner("digitnet", 2, 8, compile=False), source, recipe, checkpoints=checkpoints)
    if due:
        assert not (tmp_path / "run").exists()
        return
    tensors, state = read_tensors(tmp_path / "run" / "last.safetensors")
    assert (state["sampler"]["epoch"], state["sampler"]["step"]) == (1, 2)
    assert all(value.isfinite().all() for value in part(tensors, "model.").values())


def test_clipping_bounds_the_gradient(data, recipe):  # noqa: F811
    """What the optimizer sees has at most the norm that was asked for, and the direction of the whole gradient."""
    seen = {}
    for limit in (0.0, 0.01):
        norms = seen.setdefault(limit, [])
        recipe.clip_norm, recipe.optimizer = limit, "sgd"
        learner = Learner("digitnet", 2, 8, compile=False)
        learner.reset(1)

        def note(optimizer, *_, learner=learner, norms=norms):
            norms.append(torch.cat([p.grad.flatten() for p in learner.model.parameters()]).clone())

        handle = register_optimizer_step_pre_hook(note)
        fit(learner, loader(data, epochs=2, curriculum_epochs=1), recipe)
        handle.remove()
    free, clipped = seen[0.0][0], seen[0.01][0]
    assert free.norm() > 0.01
    torch.testing.assert_close(clipped, free * 0.01 / free.norm(), rtol=1e-4, atol=1e-8)
    assert np.all([gradient.norm() <= 0.01 * (1 + 1e-5) for gradient in seen[0.01]])
