"""Where DALI decodes only, the renderer makes the same windows as DALI's operators, up to rounding."""

import numpy as np
import pytest
import torch
from PIL import Image

from discl._C import Renderer
from discl.decoding import CPU
from discl.pipeline import HostWindows, rendered
from discl.views import View, windows

COUNT = 16


def pictures(random, channels):
    """Smooth, with some grain, wider and narrower than the views."""
    out = []
    for _ in range(COUNT):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(coarse.resize(random.integers(40, 160, 2), Image.Resampling.BICUBIC), np.int16)
        grainy = (smooth + random.integers(-12, 13, smooth.shape, np.int16)).clip(0, 255).astype(np.uint8)
        out.append(np.ascontiguousarray(grainy[..., :channels]))
    return out


def dalis(images, boxes, flipped, view):
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    pipeline = Pipeline(len(images), 2, device_id=None)
    with pipeline:
        arrays = images, boxes[:, [1, 0]].copy(), boxes[:, [3, 2]].copy(), flipped.astype(np.int32)
        sources = [fn.external_source(source=[array], batch=True, cycle=True) for array in arrays]
        pipeline.set_outputs(rendered(fn.reshape(sources[0], layout="HWC"), sources[1:], view))
    pipeline.build()
    return np.stack([np.array(image) for image in pipeline.run()[0]])


# DALI sums in another order, and reads cubic and Lanczos weights from tables.
@pytest.mark.parametrize(("filter", "share"), [("linear", 2e-4), ("cubic", 6e-3), ("lanczos", 6e-3)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_windows_are_dalis(seed, channels, filter, share):
    random = np.random.default_rng(seed)
    view = View(97, channels, (50.0,) * channels, (1.0,) * channels, filter, min_area=0.2, flip=True)
    images = pictures(random, channels)
    boxes, flipped = windows(view, seed, 0, np.arange(COUNT))
    ours = Renderer(view.size, filter, view.mean, view.std, 2).render(images, boxes, flipped)
    theirs = dalis(images, boxes, flipped, view)
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1
    assert (difference > 0.5).mean() <= share, f"seed {seed}"


def test_a_gpu_gets_from_the_cpu_what_a_cpu_gets(monkeypatch):
    """Without a GPU: memory that would be pinned is ordinary, and the copy to the device is left out."""
    empty, seed = torch.empty, 4
    view = View(31, 3, (5.0, 6.0, 7.0), (2.0, 3.0, 4.0), min_area=0.3, flip=True)
    images = pictures(np.random.default_rng(seed), 3)
    boxes, flipped = windows(view, seed, 0, np.arange(COUNT))
    expected = HostWindows(view, CPU, 2, torch.device("cpu")).images(images, boxes, flipped)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory: empty(*shape).fill_(torch.nan))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: tensor)
    copied = HostWindows(view, CPU, 2, torch.device("cuda")).images(images, boxes, flipped)
    assert torch.equal(copied, expected)
