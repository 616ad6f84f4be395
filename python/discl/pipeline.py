"""The DALI pipeline: encoded images, windows and flips in, normalised float NCHW out."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from discl.decoding import Decoding
from discl.views import View

PREFETCH = 2


def build_pipeline(feed: Callable, batch: int, view: View, threads: int, device: torch.device, decoding: Decoding):
    """encoded -> decode -> window and resize -> flip and normalise, all on `device` but perhaps the decoding.

    feed: what gives (encoded, window starts, window ends, flips) for each batch; its arrays are not copied, so they
    must stay as they are while PREFETCH + 2 further batches are fed.
    """
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    types: Any = import_module("nvidia.dali.types")  # its constants are made at run time

    filters = {"linear": types.INTERP_TRIANGULAR, "cubic": types.INTERP_CUBIC, "lanczos": types.INTERP_LANCZOS3}
    number = (device.index or 0) if device.type == "cuda" else None
    pipeline = Pipeline(batch, threads, device_id=number, prefetch_queue_depth=PREFETCH)
    with pipeline:
        encoded, start, end, flipped = fn.external_source(
            source=feed, num_outputs=4, batch=True, batch_info=True, no_copy=True,
            dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.INT32],
        )  # fmt: skip
        colours = types.GRAY if view.channels == 1 else types.RGB
        images: Any = fn.decoders.image(encoded, output_type=colours, **decoding.options)
        if number is not None and decoding.device == "cpu":
            images = images.gpu()
        images = fn.resize(
            images, size=[view.size] * 2, interp_type=filters[view.filter], antialias=True,
            roi_start=start, roi_end=end, roi_relative=True,
        )  # fmt: skip
        images = fn.crop_mirror_normalize(
            images, dtype=types.FLOAT, output_layout="CHW", mean=list(view.mean), std=list(view.std),
            mirror=flipped,
        )  # fmt: skip
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline
