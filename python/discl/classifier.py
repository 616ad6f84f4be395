"""A name becomes an image classifier and the view of images it is trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from discl.clip_classifier import CAPTIONS, PREFIX, ClipClassifier, clip_views
from discl.errors import ConfigError, nearest
from discl.views import View


@dataclass(frozen=True)
class Recipe:
    """build(classes) -> module from images [n, channels, size, size] to logits [n, classes]; two views."""

    build: Callable[[int], nn.Module]
    train: View
    test: View


def _resnet(*blocks: int, block: type = BasicBlock) -> Callable[[int], nn.Module]:
    """7x7 stem, BasicBlocks, Kaiming fan-out, no zero-init (paper 4.1)."""
    return lambda classes: ResNet(block, list(blocks), num_classes=classes)


class CifarResNet(nn.Module):
    """The ResNet for 32x32 pixels: 3x3 stem, three stages of `blocks` BasicBlocks with 16, 32 and 64 channels.

    He et al. 2016, 4.2: 6 * blocks + 2 layers; shortcuts with a 1x1 convolution.
    """

    def __init__(self, blocks: int, classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        stages = [_stage(*shape, blocks) for shape in ((16, 16, 1), (16, 32, 2), (32, 64, 2))]
        self.stages = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem(images)))


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    """The first block changes size and width."""
    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut), *(BasicBlock(outputs, outputs) for _ in range(blocks - 1))
    )


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
CIFAR = View(32, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
DIGIT = View(8, channels=1, mean=(127.5,), std=(127.5,), filter="lanczos")
RECIPES = {
    "resnet10": Recipe(_resnet(1, 1, 1, 1), PHOTO, View(224)),
    "resnet18": Recipe(_resnet(2, 2, 2, 2), PHOTO, View(224)),
    "resnet32": Recipe(lambda classes: CifarResNet(5, classes), replace(CIFAR, flip=True, min_area=0.6), CIFAR),
    "resnet34": Recipe(_resnet(3, 4, 6, 3), PHOTO, View(224)),
    "resnet50": Recipe(_resnet(3, 4, 6, 3, block=Bottleneck), PHOTO, View(224)),
    # Random windows lift plain training from 68 to 80 % of the few classes' validation images.
    "digitnet": Recipe(DigitNet, replace(DIGIT, min_area=0.6), DIGIT),
}


def recipe_of(name: str) -> Recipe:
    """One of RECIPES, `clip:NAME:weights` (see `load_clip`), or a model of timm, without its published weights.

    Raises ConfigError for a name that none of them knows.
    """
    if name in RECIPES:
        return RECIPES[name]
    if name.startswith(PREFIX):
        return Recipe(lambda classes: _no_names(name), *clip_views(name))
    return _timm(name)


def _no_names(name: str) -> nn.Module:
    raise ConfigError(f"train.model = {name!r} is a CLIP, which needs the classes' names")


def _timm(name: str) -> Recipe:
    import timm

    if name not in timm.list_models() and name not in timm.list_pretrained():
        raise ConfigError(
            f"train.model = {name!r}; expected one of {', '.join(RECIPES)}, clip:NAME:weights or a model of timm "
            f"(nearest: {nearest(name, [*RECIPES, *timm.list_models()])!r})"
        )
    settings = timm.get_pretrained_cfg(name)
    test = View.of_shares(settings.input_size[-1], settings.mean, settings.std) if settings else View(224)
    return Recipe(
        lambda classes: timm.create_model(name, num_classes=classes),
        replace(test, flip=PHOTO.flip, min_area=PHOTO.min_area),
        test,
    )


def build_classifier(name: str, classes: int | Sequence[str], seed: int, captions: Sequence[str] = ()) -> nn.Module:
    """The named network with weights drawn from `seed`; the caller's random state is left as it was.

    A CLIP has its own weights, and needs the classes' names and `captions` (default: FLYP's).
    """
    if name.startswith(PREFIX) and not isinstance(classes, int):
        return ClipClassifier(name, classes, captions or CAPTIONS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recipe_of(name).build(classes if isinstance(classes, int) else len(classes))
