"""Networks by name: torchvision's where they are the same, He's for 32 pixels, and whatever timm has."""

import pytest
import timm
import torch
import torchvision
from timm.data import resolve_model_data_config
from torch import nn

from discl.classifier import build_classifier, recipe_of
from discl.errors import ConfigError
from discl.training import train
from discl.views import View
from tests.discl.test_training import DIGITS, write_config


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_resnet_is_torchvisions(name):
    ours, theirs = build_classifier(name, 7, 0).eval(), getattr(torchvision.models, name)(num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


def test_resnet10_has_one_block_a_stage():
    model = build_classifier("resnet10", 5, 0)
    weighted = [
        m for m in model.modules() if isinstance(m, nn.Linear) or getattr(m, "kernel_size", None) in ((3, 3), (7, 7))
    ]
    assert len([m for m in weighted if isinstance(m, nn.Conv2d | nn.Linear)]) == 10


def test_resnet32_is_the_papers_for_32_pixels():
    """32 layers; 464,154 parameters for ten classes, and two shortcuts with weights."""
    model = build_classifier("resnet32", 10, 0)
    layers = [
        m for m in model.modules() if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    ]
    assert len(layers) == 32
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert sum(p.numel() for p in model.parameters()) == 464_154 + shortcuts
    assert model.stages[:3](model.stem(torch.zeros(2, 3, 32, 32))).shape == (2, 64, 8, 8)


@pytest.mark.parametrize("name", ["resnet32", "test_resnet"])
def test_weights_come_from_the_seed_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_classifier(name, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected), "the caller's random state is as it was"
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit.r160_in1k", "resnet18d"])
def test_a_model_of_timm_with_its_own_view(name):
    recipe, model = recipe_of(name), build_classifier(name, 4, 0)
    said = resolve_model_data_config(model)
    assert type(model) is type(timm.create_model(name)) and model.num_classes == 4
    size, mean, std = said["input_size"][-1], said["mean"], said["std"]
    assert recipe.test == View(size, mean=tuple(255 * m for m in mean), std=tuple(255 * s for s in std))
    assert (recipe.train.size, recipe.train.flip) == (size, True) and recipe.train.min_area < 1 == recipe.test.min_area


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(
        ConfigError, match=r"train\.model = 'resnet5O'; expected one of resnet10, .*nearest: 'resnet50'"
    ):
        recipe_of("resnet5O")


@pytest.mark.parametrize("name", ["resnet32", "resnet50", "test_resnet"])
def test_they_train(tmp_path, name):
    """Grey images of 8 pixels, enlarged; one epoch."""
    text = DIGITS.replace('"digitnet"', f'"{name}"\nimage_size = 32').replace("\nepochs = 3", "\nepochs = 1")
    with torch._dynamo.config.patch(disable=True):
        result = train(
            write_config(tmp_path, text.replace("curriculum_epochs = 2", "curriculum_epochs = 1")), tmp_path / "out"
        )
    assert result["steps"] == 6 and result["overall"] > 0.05
