"""Prompts -> text states [n, d], each distinct text encoded once."""

from collections import OrderedDict
from collections.abc import Callable

import torch


class TextStates:
    """An LRU cache over the model's own text encoder. Texts are encoded one by one, so no state depends on a batch."""

    def __init__(self, encode: Callable[[str], torch.Tensor], capacity: int = 4096):
        self._encode = encode
        self._capacity = capacity
        self._states: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, text: str) -> torch.Tensor:
        if text not in self._states:
            self._states[text] = self._encode(text)[0]
            if len(self._states) > self._capacity:
                self._states.popitem(last=False)
        self._states.move_to_end(text)
        return self._states[text]
