"""A dataset and a sampler become batches of normalised images: a DALI pipeline fed in the sampler's order."""

from collections import deque
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from discl.encoded import EncodedReader
from discl.errors import RunFailed
from discl.torch_loader import TorchLoader, describe
from discl.views import WHOLE, View, windows

PREFETCH = 2
PHOTO = View()
BLANK = np.frombuffer(b"P5 1 1 255 \0", dtype=np.uint8)  # feeds a rank whose part of the last batch is empty


def open_loader(dataset, sampler, view: View, threads: int = 2):
    """The DALI loader, or the plain one, with the same batches, where DALI is not installed."""
    loader = CurriculumLoader if find_spec("nvidia.dali") else TorchLoader
    return loader(dataset, sampler, view, threads)


class CurriculumLoader:
    """Iterating yields the rest of the sampler's current epoch, as dicts of n images:

    image float32 [n, channels, size, size]; label, level int64 [n]; is_synth bool [n]; id: list of n strings.
    Only what is yielded counts as consumed, so `state_dict` may be taken at any batch. `substituted` counts
    images that stood in for damaged ones. `view` is by default the whole image at 224 pixels with ImageNet's mean
    and std. Decoding runs in `threads` C++ threads on the CPU.
    """

    def __init__(self, dataset, sampler, view: View = PHOTO, threads: int = 2):
        self.dataset, self.sampler, self.view, self.threads = dataset, sampler, view, max(threads, 1)
        self.reader = EncodedReader(dataset)
        self.substituted = 0
        self._idle = None  # a pipeline that has finished its epoch and can be fed again

    def __len__(self) -> int:
        return len(self.sampler)

    def state_dict(self) -> dict:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.sampler.load_state_dict(state)

    def __iter__(self) -> Iterator[dict]:
        pipeline = self._open()
        for _ in range(self.sampler.step, len(self.sampler)):
            pipeline, images = self._run(pipeline)
            asked, used = self._fed.popleft()
            self.substituted += int((asked != used).sum())
            self.sampler.advance()
            yield describe(self.dataset, used, images[: len(used)])
        self._close(pipeline)

    def _open(self):
        """A pipeline that will be fed from the sampler's position on."""
        self._epoch, self._first, self._last = self.sampler.epoch, self.sampler.step, len(self.sampler)
        self._fed: deque = deque()
        self._buffers: deque = deque(maxlen=PREFETCH + 2)  # DALI reads the arrays without copying them
        pipeline, self._idle = self._idle or build_pipeline(self), None
        return pipeline

    def _close(self, pipeline) -> None:
        try:
            pipeline.run()
        except StopIteration:
            pipeline.reset()
            self._idle = pipeline

    def _run(self, pipeline):
        """One batch of images. When decoding fails, damaged rows are replaced and the feed starts again."""
        while True:
            try:
                (images,) = pipeline.run()
                return pipeline, torch.from_numpy(np.array(images.as_tensor()))
            except RuntimeError as error:
                rows = [row for _, used in self._fed for row in used]
                if not self.reader.reject_undecodable(rows):
                    raise RunFailed(f"DALI cannot decode a batch: {error}") from error
                pipeline = self._open()

    def feed(self, info):
        """What DALI asks for each batch: encoded images, window starts and ends (y, x), flips."""
        step = self._first + info.iteration
        if step >= self._last:
            raise StopIteration
        asked = self.sampler.rows(self._epoch, step)
        boxes, flipped = windows(self.view, self.sampler.seed, self._epoch, self.sampler.positions(self._epoch, step))
        pairs = [self.reader.read(int(row)) for row in asked]
        self._fed.append((asked, np.array([row for row, _ in pairs], dtype=np.int64)))
        files = [data for _, data in pairs]
        if not files:
            files, boxes, flipped = [BLANK], np.array([WHOLE], dtype=np.float32), np.array([False])
        starts, ends = (np.ascontiguousarray(boxes[:, sides]) for sides in ([1, 0], [3, 2]))
        batch = files, starts, ends, flipped.astype(np.int32)
        self._buffers.append(batch)
        return batch


def build_pipeline(loader: CurriculumLoader):
    """encoded -> decode -> window and resize -> flip and normalise -> float NCHW, all on the CPU."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    types: Any = import_module("nvidia.dali.types")  # its constants are made at run time

    view = loader.view
    filters = {"linear": types.INTERP_TRIANGULAR, "lanczos": types.INTERP_LANCZOS3}
    pipeline = Pipeline(loader.sampler.batch, loader.threads, device_id=None, prefetch_queue_depth=PREFETCH)
    with pipeline:
        encoded, start, end, flipped = fn.external_source(
            source=loader.feed, num_outputs=4, batch=True, batch_info=True, no_copy=True,
            dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.INT32],
        )  # fmt: skip
        colours = types.GRAY if view.channels == 1 else types.RGB
        images: Any = fn.decoders.image(encoded, device="cpu", output_type=colours)
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
