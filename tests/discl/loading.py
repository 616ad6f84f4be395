"""Loaders over a small dataset, and what two of them must agree in."""

import numpy as np
import torch
from PIL import Image

from discl.sampler import CurriculumSampler
from discl.views import View
from tests.discl.test_curriculum import config

PLAIN = View(8, mean=(0, 0, 0), std=(1, 1, 1))
CROPS = View(16, mean=(10, 20, 30), std=(1, 1, 1), min_area=0.3, flip=True)
# Grey values of 255: DALI repeats the border's pixels where PIL cuts its filter off; both round.
RESAMPLED = {"atol": 6.0, "mean": 1.0}
GREY = View(8, channels=1, mean=(0,), std=(1,), filter="lanczos")


def textured(data, seed=0):
    """Replace the flat colours by smooth patterns, so that windows and flips show."""
    random = np.random.default_rng(seed)
    for path in data.paths:
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(random.integers(9, 40, 2), Image.Resampling.BICUBIC).save(path)
    return data


def loader(kind, data, view=PLAIN, batch=8, rank=0, world=1, threads=None, policy="diverse-to-specific"):
    keys = {"epochs": 4, "curriculum_epochs": 2, "nontail_share": 1.0, "synthetic_scale": 2.5}
    sampler = CurriculumSampler(data, config(policy, **keys), batch, 5, rank, world)
    return kind(data, sampler, view, *([] if threads is None else [threads]))


def assert_same(first, second, atol=0.0, mean=0.0):
    for name in ("label", "level", "is_synth"):
        assert torch.equal(first[name], second[name])
    assert first["id"] == second["id"]
    torch.testing.assert_close(first["image"], second["image"], atol=atol, rtol=0)
    assert (first["image"] - second["image"]).abs().mean() <= mean
