"""How many requests share a batch: the fewest at which a device is about as fast per row as it gets.

A short profile of the network, uncompiled: compiled code launches faster, so it needs no more rows to be busy. The
count is kept, since another one makes other last bits and other compiled code.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from discl.cache_folder import cache_folder
from discl.engine.compile_cache import device_name, open_place, put_file
from discl.engine.condition import Condition
from discl.engine.denoiser import torch_denoiser
from discl.engine.faults import is_out_of_memory
from discl.engine.pretrained import DiffusionModel
from discl.engine.reproducible import stable_rows

log = logging.getLogger(__name__)

CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128)
ENOUGH = 0.95  # of the best rate
LONG = 0.25  # seconds: a step that takes longer has little left to share among more rows
REPEATS = 3
MEMORY_SHARE = 0.5  # of a CUDA device, that the network alone may take: decoding and graphs want theirs


def choose_slots(
    model: DiffusionModel, device: torch.device, size: tuple[int, int] | None, guidance: float, place: str | None = None
) -> int:
    """Slots for images of `size` (width, height; None: the model's own) at text guidance g.

    place: the folder or fsspec URL where counts are kept, below "slots"; None for the user's cache folder.
    """
    width, height = size or (_own_side(model),) * 2
    cells = max(1, height // model.multiple), max(1, width // model.multiple)
    copies = 2 if model.guided(guidance) else 1
    kept = _Kept(place, _facts(model, device, cells, copies))
    slots = kept.read()
    if slots is None:
        slots = fewest(_StepTime(model, device, cells, copies, guidance))
        log.info("%d slots for %d x %d pixels on this device", slots, width, height)
        kept.write(slots)
    return slots


def fewest(step_seconds: Callable[[int], float | None]) -> int:
    """The least of CANDIDATES with ENOUGH of the best rate; step_seconds(slots) is None for what does not fit."""
    rates: dict[int, float] = {}
    for slots in CANDIDATES:
        seconds = step_seconds(slots)
        if seconds is None:
            break
        rates[slots] = slots / seconds
        if seconds > LONG or rates[slots] < ENOUGH * max(rates.values()):
            break
    best = max(rates.values(), default=0.0)
    return next((slots for slots, rate in rates.items() if rate >= ENOUGH * best), 1)


class _StepTime:
    """slots -> seconds of the network's evaluation of that many requests, or None where the memory is too small."""

    def __init__(
        self, model: DiffusionModel, device: torch.device, cells: tuple[int, int], copies: int, guidance: float
    ):
        self._denoise = torch_denoiser(model)
        height, width = (side * model.multiple for side in cells)
        text = model.encode_text("", False)
        self._condition = model.condition(text, height, width, guidance, False)
        self._device, self._copies = device, copies
        self._latent = model.latent_channels, *cells

    @torch.no_grad()
    def __call__(self, slots: int) -> float | None:
        rows = self._copies * stable_rows(slots, self._copies)
        try:
            seconds = self._shortest(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return None if self._memory_share() > MEMORY_SHARE else seconds

    def _shortest(self, rows: int) -> float:
        x = torch.zeros(rows, *self._latent, dtype=torch.float32, device=self._device)
        condition = self._condition.zeros(rows)
        first = self._seconds(x, condition)  # libraries set themselves up
        return first if first > 5 * LONG else min(self._seconds(x, condition) for _ in range(REPEATS))

    def _seconds(self, x: torch.Tensor, condition: Condition) -> float:
        self._wait()
        begin = perf_counter()
        self._denoise(x, x.new_full((len(x),), 500.0), condition)
        self._wait()
        return perf_counter() - begin

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _memory_share(self) -> float:
        if self._device.type != "cuda":
            return 0.0
        return torch.cuda.max_memory_allocated(self._device) / torch.cuda.mem_get_info(self._device)[1]


class _Kept:
    """One count in a file; what cannot be read or written is a warning, and is measured again."""

    def __init__(self, place: str | None, facts: dict[str, Any]):
        self._facts = facts
        name = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
        self._filesystem, root = open_place(place or str(cache_folder()))
        self._file = f"{root}/slots/{name}.json"

    def read(self) -> int | None:
        try:
            if not self._filesystem.exists(self._file):
                return None
            slots = json.loads(self._filesystem.cat_file(self._file))["slots"]
        except Exception as error:  # whatever a file system or a damaged file may raise
            log.warning("slots are counted anew: %s cannot be read (%s)", self._file, error)
            return None
        return slots if type(slots) is int and 1 <= slots <= CANDIDATES[-1] else None

    def write(self, slots: int) -> None:
        try:
            put_file(self._filesystem, self._file, json.dumps({"slots": slots, **self._facts}, indent=1).encode())
        except Exception as error:
            log.warning("%d slots, but %s cannot be written (%s)", slots, self._file, error)


def _own_side(model: DiffusionModel) -> int:
    cells = model.unet.config.sample_size
    return (max(cells) if isinstance(cells, list | tuple) else cells or 64) * model.multiple


def _facts(model: DiffusionModel, device: torch.device, cells: tuple[int, int], copies: int) -> dict[str, Any]:
    """What a count depends on."""
    return {
        "model": model.digest,
        "dtype": str(model.dtype),
        "cells": list(cells),
        "copies": copies,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
