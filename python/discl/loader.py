"""A dataset and a sampler become batches of normalised images: a DALI pipeline fed in the sampler's order."""

import logging
from collections import deque
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from discl.decoding import Tuner, decodings
from discl.encoded import EncodedReader
from discl.errors import RunFailed
from discl.pipeline import PREFETCH, build_pipeline, windows_of
from discl.progress import OnEvent, ignore
from discl.torch_loader import TorchLoader, describe
from discl.views import WHOLE, View, windows

log = logging.getLogger(__name__)

PHOTO = View()
AHEAD = 2  # batches that are being read while DALI decodes others
BLANK = np.frombuffer(b"P5 1 1 255 \0", dtype=np.uint8)  # feeds a rank whose part of the last batch is empty


class Fed(NamedTuple):
    """What DALI was given for a batch: rows wished for, rows taken, and their windows as `discl.views` draws them."""

    asked: np.ndarray
    used: np.ndarray
    boxes: np.ndarray
    flipped: np.ndarray


def open_loader(
    dataset, sampler, view: View, threads: int = 2, device="cpu", decode: str = "auto", on_event: OnEvent = ignore
):  # fmt: skip
    """The DALI loader, or the plain one, with the same batches, where DALI is not installed."""
    if find_spec("nvidia.dali"):
        return CurriculumLoader(dataset, sampler, view, threads, device, decode, on_event=on_event)
    return TorchLoader(dataset, sampler, view, threads)


class CurriculumLoader:
    """Iterating yields the rest of the sampler's current epoch, as dicts of n images:

    image float32 [n, channels, size, size] on `device`; label, level int64 [n]; is_synth bool [n]; id: list of n
    strings. Only what is yielded counts as consumed, so `state_dict` may be taken at any batch. `substituted` counts
    images that stood in for damaged ones. `view` is by default the whole image at 224 pixels with ImageNet's mean
    and std. `threads` C++ threads read, as many decode, and on the CPU as many make the windows.

    decode: "cpu"; on a CUDA device also "mixed" (CUDA cores), "hardware" (the JPEG engine too), whose windows are made
    there as well, and "auto", which tries these three for `trial` batches altogether, keeps the fastest for what runs
    beside it, and says so as an event {"event": "decoding", "chosen", "seconds_per_batch"} and in the state.
    Raises RunFailed where no image of a damaged one's class and level can be used.
    """

    ahead = 3  # batches that `discl.staging` lets a thread take from it meanwhile

    def __init__(
        self, dataset, sampler, view: View = PHOTO, threads: int = 2, device="cpu", decode: str = "auto",
        trial: int = 200, on_event: OnEvent = ignore,
    ):  # fmt: skip
        self.dataset, self.sampler, self.view, self.threads = dataset, sampler, view, max(threads, 1)
        self.device, self.on_event = torch.device(device), on_event
        self.tuner = Tuner(decodings(decode, self.device), trial)
        self.reader = EncodedReader(dataset, self.threads)
        self.substituted = 0
        self._idle = None  # a pipeline that has finished its epoch and can be fed again

    def __len__(self) -> int:
        return len(self.sampler)

    def state_dict(self) -> dict:
        """JSON-able: the sampler's state after the batches that were yielded, and how images are decoded."""
        return {**self.sampler.state_dict(), "decoding": self.tuner.chosen}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` stands. Raises ConfigError if seed, batch or images differ."""
        self.sampler.load_state_dict(state)
        self.tuner.choose(state.get("decoding"))
        self._idle = None

    def __iter__(self) -> Iterator[dict]:
        self._pipeline = self._open()
        self.tuner.begin()
        for _ in range(self.sampler.step, len(self.sampler)):
            yield self._batch()  # not held here meanwhile: its memory serves the next
            if self.tuner.count_batch():
                self._report()
                self._pipeline = self._open()
        self._close()

    def _batch(self) -> dict:
        images = self._run()
        fed = self._fed.popleft()
        self.substituted += int((fed.asked != fed.used).sum())
        self.sampler.advance()
        images = self._windows.images(images, fed.boxes, fed.flipped)
        return describe(self.dataset, fed.used, images[: len(fed.used)])

    def _report(self) -> None:
        if self.tuner.chosen:
            seconds = self.tuner.seconds_per_batch
            log.info("images are decoded by %r; seconds per batch: %s", self.tuner.chosen, seconds)
            self.on_event({"event": "decoding", "chosen": self.tuner.chosen, "seconds_per_batch": seconds})

    def _open(self):
        """A pipeline that will be fed from the sampler's position on."""
        self._epoch, self._first, self._last = self.sampler.epoch, self.sampler.step, len(self.sampler)
        self._asked = self._first
        self.reader.forget()
        self._fed: deque[Fed] = deque()
        self._buffers: deque = deque(maxlen=PREFETCH + 2)  # DALI reads the arrays without copying them
        idle, self._idle = self._idle, None
        if idle:
            return idle
        self._windows = windows_of(self.view, self.tuner.current, self.threads, self.device)
        return build_pipeline(self.feed, self._windows, self.sampler.batch, self.threads)

    def _close(self) -> None:
        try:
            self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
            self._idle = self._pipeline

    def _run(self):
        """DALI's output for one batch. When decoding fails, damaged rows are replaced and the feed starts again."""
        while True:
            try:
                (images,) = self._pipeline.run()
                return images
            except RuntimeError as error:
                rows = [row for fed in self._fed for row in fed.used]
                if not self.reader.reject_undecodable(rows):
                    raise RunFailed(f"DALI cannot decode a batch: {error}") from error
                self._pipeline = self._open()

    def feed(self, info):
        """What DALI asks for each batch: encoded images, and their windows where it makes them."""
        step = self._first + info.iteration
        if step >= self._last:
            raise StopIteration
        while self._asked < min(step + 1 + AHEAD, self._last):
            self.reader.ask(self.sampler.rows(self._epoch, self._asked))
            self._asked += 1
        boxes, flipped = windows(self.view, self.sampler.seed, self._epoch, self.sampler.positions(self._epoch, step))
        asked, used, files = self.reader.take()
        if not files:
            files, boxes, flipped = [BLANK], np.array([WHOLE], dtype=np.float32), np.array([False])
        self._fed.append(Fed(asked, used, boxes, flipped))
        inputs = self._windows.inputs(files, boxes, flipped)
        self._buffers.append(inputs)
        return inputs
