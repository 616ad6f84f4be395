"""CLIP as a classifier: images in, logits of a zero-shot head out; and the FLYP loss that trains both towers.

Goyal et al., Finetune like you pretrain (CVPR 2023): fine-tune with the loss of pre-training, classify with the text.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from discl.losses import IGNORED
from discl.views import View

PREFIX = "clip:"  # of train.model
CAPTIONS = ("a photo of a {class}.", "{class} in the wild.")
FILTERS = {"bicubic": "cubic", "bilinear": "linear", "lanczos": "lanczos"}


@lru_cache(maxsize=1)
def checkpoint(name: str):
    """The CLIP that `name` says, see `discl.engine.clip_checkpoint.load_clip`; read once."""
    from discl.engine.clip_checkpoint import load_clip

    return load_clip(name.removeprefix(PREFIX))


def clip_views(name: str) -> tuple[View, View]:
    """Training (random windows of 90 to 100 %, no flip) and test, in the checkpoint's own size and normalisation."""
    look = checkpoint(name).preprocess
    size = look["size"] if isinstance(look["size"], int) else look["size"][0]
    test = View.of_shares(size, look["mean"], look["std"], filter=FILTERS.get(look["interpolation"], "cubic"))
    return replace(test, min_area=0.9), test


class ClipClassifier(nn.Module):
    """class_names: C names. captions: K templates with {class}; a training row takes one in turn, the head takes all.

    Names are lower-cased for the head, as FLYP does.
    """

    clip: Any
    captions: torch.Tensor
    templates: torch.Tensor
    turn: torch.Tensor

    def __init__(self, name: str, class_names: Sequence[str], captions: Sequence[str] = CAPTIONS):
        super().__init__()
        read = checkpoint(name)
        self.clip = copy.deepcopy(read.model).requires_grad_(True)
        said = [[text.replace("{class}", label) for text in captions] for label in class_names]
        lower = [[text.replace("{class}", label.lower()) for text in captions] for label in class_names]
        self.register_buffer("captions", _tokens(read.tokenize, said), persistent=False)
        self.register_buffer("templates", _tokens(read.tokenize, lower), persistent=False)
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self._head: torch.Tensor | None = None

    def train(self, mode: bool = True) -> "ClipClassifier":
        self._head = None  # of other weights
        return super().train(mode)

    def head(self) -> torch.Tensor:
        """[D, C]: the mean of each class's normalised texts, normalised, times exp(logit scale)."""
        classes, texts, length = self.templates.shape
        features = F.normalize(self.clip.encode_text(self.templates.reshape(-1, length)), dim=-1)
        means = F.normalize(features.reshape(classes, texts, -1).mean(1), dim=-1)
        return means.T * self.clip.logit_scale.exp()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float [n, 3, S, S] -> logits [n, C]. In evaluation mode the head is made once per switch to it."""
        if self.training:
            return F.normalize(self.clip.encode_image(images), dim=-1) @ self.head()
        if self._head is None:
            self._head = self.head()
        return F.normalize(self.clip.encode_image(images), dim=-1) @ self._head

    def contrastive(self, images: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The FLYP loss: symmetric cross-entropy of images against their captions over the batch (paper 4.4).

        Rows of the same class count as negatives. IGNORED rows (padding) are neither. rows: what the sum is divided
        by, else their number.
        """
        number = torch.arange(len(labels), device=labels.device)
        classes, captions, length = self.captions.shape
        chosen = labels.clamp(min=0) * captions + (number + self.turn) % captions
        every = self.captions.reshape(-1, length)
        few = classes * captions < len(labels)  # then each text is encoded once
        text = self.clip.encode_text(every)[chosen] if few else self.clip.encode_text(every[chosen])
        image, text = F.normalize(self.clip.encode_image(images), dim=-1), F.normalize(text, dim=-1)
        self.turn += 1
        padding = labels == IGNORED
        scores = self.clip.logit_scale.exp() * (image.float() @ text.float().T)
        target = number.masked_fill(padding, IGNORED)
        sides = [scores.masked_fill(padding[None, :], -torch.inf), scores.T.masked_fill(padding[None, :], -torch.inf)]
        losses = [F.cross_entropy(side, target, ignore_index=IGNORED, reduction="sum") for side in sides]
        return (losses[0] + losses[1]) / 2 / ((~padding).sum() if rows is None else rows)


def _tokens(tokenize, texts: list[list[str]]) -> torch.Tensor:
    """int64 [C, K, T]."""
    flat = tokenize([text for of_class in texts for text in of_class])
    return flat.reshape(len(texts), len(texts[0]), -1)


@torch.no_grad()
def blend(model: nn.Module, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], share: float) -> None:
    """Weight ensembling: (1 - share) * before + share * after, into the model's own tensors."""
    mixed = {
        name: torch.lerp(before[name], value, share) if value.is_floating_point() else value
        for name, value in after.items()
    }
    model.load_state_dict(mixed)
