"""The DALI pipelines: encoded images in; out come decoded ones, or normalised float NCHW windows of them.

Where images are decoded their windows are made too: a step on the GPU waits for no kernels but its own while CPUs
decode. There `discl._C.Renderer` takes a sixth of the time of DALI's resize and crop_mirror_normalize (224 pixels
from 256: 160 instead of 1000 us an image on a Xeon), equal up to rounding.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch

from discl._C import Renderer
from discl.decoding import Decoding
from discl.views import View

PREFETCH = 2


class HostWindows:
    """DALI decodes on the CPU, and the renderer makes the windows there; a copy is all that a GPU has to do."""

    inputs_are = ("UINT8",)
    device_id = None

    def __init__(self, view: View, decoding: Decoding, threads: int, device: torch.device):
        self.view, self.decoding, self.device = view, decoding, device
        self.renderer = Renderer(view.size, view.filter, view.mean, view.std, threads)

    def inputs(self, files: list, boxes: np.ndarray, flipped: np.ndarray) -> tuple:
        return (files,)

    def output(self, encoded):
        return decoded(encoded, self.view, self.decoding)

    def images(self, output, boxes: np.ndarray, flipped: np.ndarray) -> torch.Tensor:
        pixels = [output[place] for place in range(len(output))]
        if self.device.type == "cpu":
            return torch.from_numpy(self.renderer.render(pixels, boxes, flipped))
        pinned = torch.empty(len(pixels), self.view.channels, *[self.view.size] * 2, pin_memory=True)
        self.renderer.render(pixels, boxes, flipped, out=pinned.numpy())
        return pinned.to(self.device, non_blocking=True)


class DeviceWindows:
    """DALI decodes on the GPU and makes the windows there."""

    inputs_are = ("UINT8", "FLOAT", "FLOAT", "INT32")

    def __init__(self, view: View, decoding: Decoding, device: torch.device):
        self.view, self.decoding, self.device_id = view, decoding, device.index or 0

    def inputs(self, files: list, boxes: np.ndarray, flipped: np.ndarray) -> tuple:
        starts, ends = (np.ascontiguousarray(boxes[:, sides]) for sides in ([1, 0], [3, 2]))  # (y, x)
        return files, starts, ends, flipped.astype(np.int32)

    def output(self, encoded, *windows):
        return rendered(decoded(encoded, self.view, self.decoding), windows, self.view)

    def images(self, output, boxes: np.ndarray, flipped: np.ndarray) -> torch.Tensor:
        return torch.from_dlpack(output.as_tensor())  # shares DALI's memory and keeps it


def windows_of(view: View, decoding: Decoding, threads: int, device: torch.device) -> HostWindows | DeviceWindows:
    if decoding.device == "mixed":
        return DeviceWindows(view, decoding, device)
    return HostWindows(view, decoding, threads, device)


def build_pipeline(feed: Callable, windows: HostWindows | DeviceWindows, batch: int, threads: int):
    """The inputs that `feed` gives for each batch -> windows.output.

    Their arrays are not copied, so they must stay as they are while PREFETCH + 2 further batches are fed.
    """
    from nvidia.dali.pipeline import Pipeline

    fn, types = _dali()
    pipeline = Pipeline(batch, threads, device_id=windows.device_id, prefetch_queue_depth=PREFETCH)
    with pipeline:
        inputs = fn.external_source(
            source=feed, num_outputs=len(windows.inputs_are), batch=True, batch_info=True, no_copy=True,
            dtype=[getattr(types, name) for name in windows.inputs_are],
        )  # fmt: skip
        pipeline.set_outputs(windows.output(*inputs))
    pipeline.build()
    return pipeline


def decoded(encoded, view: View, decoding: Decoding):
    fn, types = _dali()
    images = fn.decoders.image(encoded, output_type=types.RGB, **decoding.options)
    if view.channels == 3:
        return images
    # Not by the decoder, whose grey of a PNG with an sRGB chunk is up to 34 of 255 beside the luma that others make.
    return fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)


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
