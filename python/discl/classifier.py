"""A name becomes an image classifier and the view of images it is trained on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from discl.errors import ConfigError
from discl.views import View


@dataclass(frozen=True)
class Recipe:
    """build(classes) -> module from images [n, channels, size, size] to logits [n, classes]; two views."""

    build: Callable[[int], nn.Module]
    train: View
    test: View


def _resnet(*blocks: int) -> Callable[[int], nn.Module]:
    """7x7 stem, BasicBlocks, Kaiming fan-out, no zero-init (paper 4.1)."""
    return lambda classes: ResNet(BasicBlock, list(blocks), num_classes=classes)


class DigitNet(nn.Module):
    """A small network for grey digits of 8x8 pixels and more: three convolutions and a linear layer.

    Group norm, not batch norm: a row's result does not depend on its neighbours or on padding.
    """

    def __init__(self, classes: int, width: int = 24):
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, width, stride=1),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 2 * width, stride=1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.GroupNorm(8, outputs), nn.ReLU()]


PHOTO = View(224, flip=True, min_area=0.25)
DIGIT = View(8, channels=1, mean=(127.5,), std=(127.5,), filter="lanczos")
RECIPES = {
    "resnet10": Recipe(_resnet(1, 1, 1, 1), PHOTO, View(224)),
    "resnet18": Recipe(_resnet(2, 2, 2, 2), PHOTO, View(224)),
    "resnet34": Recipe(_resnet(3, 4, 6, 3), PHOTO, View(224)),
    # Random windows lift plain training from 68 to 80 % of the few classes' validation images.
    "digitnet": Recipe(DigitNet, replace(DIGIT, min_area=0.6), DIGIT),
}


def recipe_of(name: str) -> Recipe:
    if name not in RECIPES:
        raise ConfigError(f"train.model = {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


def build_classifier(name: str, classes: int, seed: int) -> nn.Module:
    """The named network with weights drawn from `seed`; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recipe_of(name).build(classes)
