"""The DALI pipelines: encoded images in; out come decoded ones, or normalised float NCHW windows of them.

On a CPU DALI only decodes: `discl._C.Renderer` makes windows of the pixels in a sixth of the time of DALI's resize and
crop_mirror_normalize (224 pixels from 256: 160 instead of 1000 us an image on a Xeon), equal up to rounding.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch

from discl.decoding import Decoding
from discl.views import View

PREFETCH = 2


def build_pipeline(feed: Callable, batch: int, view: View, threads: int, device: torch.device, decoding: Decoding):
    """encoded -> decode on a CPU; encoded -> decode -> window, resize, flip, normalise on a GPU.

    feed: what gives (encoded, window starts, window ends, flips) for each batch; its arrays are not copied, so they
    must stay as they are while PREFETCH + 2 further batches are fed.
    """
    from nvidia.dali.pipeline import Pipeline

    number = (device.index or 0) if device.type == "cuda" else None
    pipeline = Pipeline(batch, threads, device_id=number, prefetch_queue_depth=PREFETCH)
    with pipeline:
        encoded, *windows = fed(feed, 1 if number is None else 4)
        images = decoded(encoded, view, decoding)
        if number is not None:
            images = rendered(images if decoding.device == "mixed" else images.gpu(), windows, view)
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline


def fed(feed: Callable, count: int) -> list:
    """The first `count` of what `feed` gives."""
    fn, types = _dali()
    return fn.external_source(
        source=lambda info: feed(info)[:count], num_outputs=count, batch=True, batch_info=True, no_copy=True,
        dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.INT32][:count],
    )  # fmt: skip


def decoded(encoded, view: View, decoding: Decoding):
    fn, types = _dali()
    colours = types.GRAY if view.channels == 1 else types.RGB
    return fn.decoders.image(encoded, output_type=colours, **decoding.options)


def rendered(images, windows: Sequence, view: View):
    """windows: starts and ends (y, x) as shares of the decoded images, and flips."""
    fn, types = _dali()
    filters = {"linear": types.INTERP_TRIANGULAR, "cubic": types.INTERP_CUBIC, "lanczos": types.INTERP_LANCZOS3}
    start, end, flipped = windows
    images = fn.resize(
        images, size=[view.size] * 2, interp_type=filters[view.filter], antialias=True,
        roi_start=start, roi_end=end, roi_relative=True,
    )  # fmt: skip
    return fn.crop_mirror_normalize(
        images, dtype=types.FLOAT, output_layout="CHW", mean=list(view.mean), std=list(view.std), mirror=flipped
    )  # fmt: skip


def _dali() -> tuple[Any, Any]:
    from nvidia.dali import fn

    return fn, import_module("nvidia.dali.types")  # its constants are made at run time
