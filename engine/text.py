"""Prompts -> encoded texts, each distinct text encoded once."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch


class Text(NamedTuple):
    """One encoded text in the model's dtype: states [n, d] and, for SDXL, the pooled text [p]."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None


class Texts:
    """An LRU cache over the model's own text encoder. Texts are encoded one by one, so none depends on a batch."""

    def __init__(self, encode: Callable[[str, bool], Text], capacity: int = 4096):
        self._encode = encode
        self._capacity = capacity
        self._texts: OrderedDict[tuple[str, bool], Text] = OrderedDict()

    def __call__(self, text: str, negative: bool = False) -> Text:
        """`negative`: encoded as a negative prompt, which some models treat differently when it is empty."""
        key = text, negative
        if key not in self._texts:
            self._texts[key] = self._encode(text, negative)
            if len(self._texts) > self._capacity:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]
