"""CUDA: an augmentation level per class that rises while the class is learnt (Ahn, Ko & Yun, ICLR 2023).

Before each epoch a class is tried at every level up to its own, on 10 * (level + 1) of its training images; it goes up
if 60 % are right at all of them, else down. Half of a class's images then get as many operations as its level says.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

from discl._C import philox
from discl.views import render

TRIED, RIGHT = 10, 0.6  # images per level, share that must be right
MOST = 10
MOST_HELD = 4096  # images in memory
SHARE = 2**31  # of 2^32: half of the images are augmented


def _affine(image, degrees=0.0, shift=(0.0, 0.0), scale=1.0, shear=(0.0, 0.0)):
    side = image.shape[-1]
    return TF.affine(image, degrees, [round(part * side) for part in shift], scale, list(shear))


def _cutout(image, strength, sign):
    side = max(1, int(image.shape[-1] * 0.5 * strength))
    place = 0 if sign > 0 else image.shape[-1] - side
    return TF.erase(image, place, place, side, side, torch.full((1, 1, 1), 0.5))


def _bytes(operation):
    """For operations that are about 8 bits."""
    return lambda image: operation((image * 255).round().to(torch.uint8)).float() / 255


def _zoomed(image, strength):
    kept = max(2, int(image.shape[-1] * (1 - 0.4 * strength)))
    return TF.resize(TF.center_crop(image, [kept, kept]), list(image.shape[-2:]), antialias=True)


# (image [C, S, S] in 0..1, strength in 0..1, sign -1 or 1) -> image. The 22 of the paper.
OPERATIONS = {
    "flip": lambda x, s, sign: TF.horizontal_flip(x),
    "mirror": lambda x, s, sign: TF.vertical_flip(x),
    "rotate": lambda x, s, sign: _affine(x, degrees=30 * s * sign),
    "shear-x": lambda x, s, sign: _affine(x, shear=(17 * s * sign, 0.0)),
    "shear-y": lambda x, s, sign: _affine(x, shear=(0.0, 17 * s * sign)),
    "shift-x": lambda x, s, sign: _affine(x, shift=(0.3 * s * sign, 0.0)),
    "shift-y": lambda x, s, sign: _affine(x, shift=(0.0, 0.3 * s * sign)),
    "larger": lambda x, s, sign: _affine(x, scale=1 + 0.5 * s),
    "smaller": lambda x, s, sign: _affine(x, scale=1 - 0.4 * s),
    "zoom": lambda x, s, sign: _zoomed(x, s),
    "cutout": _cutout,
    "brightness": lambda x, s, sign: TF.adjust_brightness(x, 1 + 0.9 * s * sign),
    "contrast": lambda x, s, sign: TF.adjust_contrast(x, 1 + 0.9 * s * sign),
    "colour": lambda x, s, sign: TF.adjust_saturation(x, 1 + 0.9 * s * sign),
    "sharpness": lambda x, s, sign: TF.adjust_sharpness(x, 1 + 0.9 * s * sign),
    "gamma": lambda x, s, sign: TF.adjust_gamma(x, 1 + 0.5 * s * sign),
    "blur": lambda x, s, sign: TF.gaussian_blur(x, [3, 3], [0.1 + s]),
    "posterize": lambda x, s, sign: _bytes(lambda y: TF.posterize(y, 8 - int(4 * s)))(x),
    "solarize": lambda x, s, sign: TF.solarize(x, 1 - 0.7 * s),
    "equalize": lambda x, s, sign: _bytes(TF.equalize)(x),
    "autocontrast": lambda x, s, sign: TF.autocontrast(x),
    "invert": lambda x, s, sign: TF.invert(x) if s > 0.5 else x,
}


def augment(image: torch.Tensor, level: int, random: np.random.Generator) -> torch.Tensor:
    """float [..., C, S, S] in 0..1: `level` operations, all different, at strength level / 10."""
    for name in random.choice(list(OPERATIONS), level, replace=False):
        image = OPERATIONS[name](image, level / MOST, float(random.choice([-1, 1]))).clamp(0, 1)
    return image


class ClassAugmentation:
    """A loader around a loader of discl's. `levels`, int64 [C], begin at 0 and are part of the state."""

    ahead = 0  # classes are tried with the model as it is when an epoch begins

    def __init__(self, loader, learner, seed: int):
        self.loader, self.learner, self.seed = loader, learner, seed
        self.sampler, self.dataset, self.view = loader.sampler, loader.dataset, loader.view
        self.levels = np.zeros(self.sampler.curriculum.classes, np.int64)
        self._held: dict[int, torch.Tensor] = {}  # images that classes were tried on, as the model sees them
        self._mean = torch.tensor(self.view.mean).reshape(-1, 1, 1) / 255
        self._std = torch.tensor(self.view.std).reshape(-1, 1, 1) / 255

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def substituted(self) -> int:
        return self.loader.substituted

    @substituted.setter
    def substituted(self, count: int) -> None:
        self.loader.substituted = count

    def state_dict(self) -> dict:
        return {**self.loader.state_dict(), "class_augmentation": self.levels.tolist()}

    def load_state_dict(self, state: dict) -> None:
        self.levels = np.array(state["class_augmentation"], np.int64)
        self.loader.load_state_dict(state)

    def __iter__(self) -> Iterator[dict]:
        epoch, first = self.sampler.epoch, self.sampler.step
        if epoch and not first:
            self.try_classes(epoch)
        for step, batch in enumerate(self.loader, first):
            positions = self.sampler.positions(epoch, step)
            batch["image"] = self._augmented(batch["image"], batch["label"].tolist(), epoch, positions)
            yield batch

    def _augmented(self, images: torch.Tensor, labels: list[int], epoch: int, positions: np.ndarray) -> torch.Tensor:
        words = philox(self.seed ^ 0xC0DA, epoch, positions)
        images = images.clone()
        for row, (label, word) in enumerate(zip(labels, words.tolist(), strict=True)):
            if self.levels[label] and word[0] < SHARE:
                images[row] = self._apply(images[row], int(self.levels[label]), np.random.default_rng(word[1:]))
        return images

    def _apply(self, image: torch.Tensor, level: int, random: np.random.Generator) -> torch.Tensor:
        device = image.device
        shown = (image.cpu() * self._std + self._mean).clamp(0, 1)
        return ((augment(shown, level, random) - self._mean) / self._std).to(device)

    @torch.inference_mode()
    def try_classes(self, epoch: int) -> None:
        """Raise or lower every class's level by one, on all ranks alike: of their statistics rank 0's count."""
        model = self.learner.model
        self.learner.ranks.agree_on(model.buffers())
        model.eval()
        labels = self.dataset.labels[: self.dataset.n_real]
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            random = np.random.default_rng([self.seed, epoch, int(label)])
            up = all(self._learnt(model, rows, int(label), level, random) for level in range(self.levels[label] + 1))
            self.levels[label] = np.clip(self.levels[label] + (1 if up else -1), 0, MOST)
        model.train()

    def _learnt(self, model, rows: np.ndarray, label: int, level: int, random: np.random.Generator) -> bool:
        images = []
        for chosen in random.choice(rows, (level + 1, TRIED)).tolist():  # ten share their operations: a tenth the work
            images.append(self._apply(torch.stack([self._plain(row) for row in chosen]), level, random))
        guesses = model(torch.cat(images).to(self.learner.device)).argmax(1)
        return float((guesses == label).float().mean()) >= RIGHT

    def _plain(self, row: int) -> torch.Tensor:
        image = self._held.get(row)
        if image is None:
            image = render(self.dataset.decoded(row)[1], self.view)
            if len(self._held) < MOST_HELD:
                self._held[row] = image
        return image
