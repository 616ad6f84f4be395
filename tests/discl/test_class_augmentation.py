"""CUDA's levels rise with what is learnt, its operations keep images images, and a restart changes nothing."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from discl.class_augmentation import MOST, OPERATIONS, ClassAugmentation, augment
from discl.data import load_data
from discl.training import learner_of, train, training_loader
from tests.discl.test_fitting import Stopped, assert_equal, stopping
from tests.discl.test_training import DIGITS, trained_weights, untimed, write_config

AUGMENTED = DIGITS.replace("lr = 2e-3", 'lr = 2e-3\naugment = "cuda"').replace("epochs = 3", "epochs = 4")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_operations_keep_the_shape_and_are_finite(name, channels):
    image = torch.rand(channels, 8, 8, generator=torch.Generator().manual_seed(0))
    for strength in (0.1, 1.0):
        for sign in (-1.0, 1.0):
            out = OPERATIONS[name](image, strength, sign)
            assert out.shape == image.shape and out.isfinite().all()


def test_there_are_the_papers_22_and_level_0_is_none():
    assert len(OPERATIONS) == 22
    image = torch.rand(3, 8, 8)
    torch.testing.assert_close(augment(image, 0, np.random.default_rng(0)), image)
    strong = augment(image, MOST, np.random.default_rng(0))
    assert strong.min() >= 0 and strong.max() <= 1 and not torch.equal(strong, image)


class Always(torch.nn.Module):
    """Answers one class."""

    def forward(self, images):
        return torch.tensor([[1.0, *[0.0] * 9]]).expand(len(images), -1)


def test_a_class_that_is_learnt_goes_up_and_the_others_stay_at_nothing(tmp_path):
    config = write_config(tmp_path, AUGMENTED)
    table = load_data(config.data)
    learner = learner_of(config, table)
    learner.model = Always()
    loader = ClassAugmentation(training_loader(config, table, None), learner, 0)
    for epoch in range(1, 4):
        loader.try_classes(epoch)
        assert loader.levels.tolist() == [epoch] + [0] * 9
    state = json.loads(json.dumps(loader.state_dict()))
    other = ClassAugmentation(training_loader(config, table, None), learner, 0)
    other.load_state_dict(state)
    assert other.levels.tolist() == loader.levels.tolist()
    first, again = (next(iter(one))["image"] for one in (loader, other))
    torch.testing.assert_close(first, again)


def test_an_augmented_training_goes_on_exactly(tmp_path):
    config = write_config(tmp_path, AUGMENTED)
    expected = train(config, tmp_path / "straight")
    with pytest.raises(Stopped):
        train(config, tmp_path / "out", stopping(lambda event: None, 9))
    assert untimed(train(config, tmp_path / "out")) == untimed(expected)
    assert_equal(trained_weights(tmp_path / "out"), trained_weights(tmp_path / "straight"))


def test_ranks_try_the_classes_with_the_statistics_of_the_first(tmp_path, monkeypatch):
    config = write_config(tmp_path, AUGMENTED)
    learner = learner_of(config, load_data(config.data))
    loader, told = ClassAugmentation(training_loader(config, load_data(config.data), None), learner, 0), []
    agreed = SimpleNamespace(agree_on=lambda buffers: told.append([id(one) for one in buffers]))
    monkeypatch.setattr(learner, "ranks", agreed)
    monkeypatch.setattr(loader, "_learnt", lambda *args: told.append("tried"))
    loader.try_classes(1)
    assert told[0] == [id(one) for one in learner.model.buffers()] and told[1] == "tried"
