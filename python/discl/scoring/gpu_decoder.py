"""Blocks with JPEGs in, pixels on the GPU out: DALI decodes them there; what it refuses, PIL decodes.

nvJPEG's pixels differ from libjpeg-turbo's by a level or two, also with the same interpolation of colours that is asked
for here; CLIP scores move by less than 2e-3.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from importlib import import_module
from typing import Any

import numpy as np
import torch

from discl._C import image_header
from discl.decoding import Decoding
from discl.pipeline import PREFETCH
from discl.scoring.pictures import Block, Picture

log = logging.getLogger(__name__)

HARDWARE = Decoding("hardware", "mixed", 0.65)


def suits(data: bytes) -> bool:
    """Whole JPEGs that all decoders show alike. What is cut off, nvJPEG would fill up with grey, and PIL refuses it."""
    return data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9") and image_header(data)[2]


class GpuDecoder:
    """A DALI pipeline that is fed blocks of at most `batch` pictures; decoding "cpu" is for tests without a GPU."""

    def __init__(self, device: torch.device, batch: int, threads: int, decoding: Decoding = HARDWARE) -> None:
        self._device, self._batch, self._threads, self._decoding = device, batch, threads, decoding
        self._pipeline: Any = None
        self._blocks: Iterator[Block] = iter(())
        self._fed: deque[Block] = deque()
        self._error: BaseException | None = None

    def decoded(self, blocks: Iterable[Block], pool: Executor) -> Iterator[Block]:
        """The same blocks in order, their encoded pictures decoded; PREFETCH blocks are in DALI's hands meanwhile.

        pool: where PIL decodes the pictures of blocks that DALI cannot decode.
        """
        self._blocks, self._fed, self._error = iter(blocks), deque(), None
        try:
            while (images := self._run(pool)) is not None:
                while not self._fed[0].undecoded:
                    yield self._fed.popleft()
                yield _take(self._fed.popleft(), images)
            yield from self._fed
        except BaseException:
            self._pipeline = None  # it holds blocks of this call
            raise
        if self._error:
            raise self._error

    def _run(self, pool: Executor) -> Any:
        """The images of the next block that has encoded pictures; None at the end."""
        while True:
            self._pipeline = self._pipeline or self._open()
            try:
                return self._pipeline.run()[0]
            except StopIteration:
                self._pipeline.reset()
                return None
            except RuntimeError as error:  # of some picture in some block on its way
                pictures = [picture for block in self._fed for picture in block.undecoded]
                log.warning("PIL decodes %d images instead of DALI: %s", len(pictures), str(error).strip())
                list(pool.map(Picture.decode, pictures))
                self._pipeline = None

    def _feed(self) -> list[np.ndarray]:
        """The encoded pictures of the next block that has some. Called by DALI, which does not copy them."""
        try:
            for block in self._blocks:
                self._fed.append(block)
                if block.undecoded:
                    return [np.frombuffer(picture.encoded, np.uint8) for picture in block.undecoded]
        except BaseException as error:  # raised once the blocks before it are through
            self._error = error
        raise StopIteration

    def _open(self) -> Any:
        from nvidia.dali import fn
        from nvidia.dali.pipeline import Pipeline

        types: Any = import_module("nvidia.dali.types")  # its constants are made at run time

        number = (self._device.index or 0) if self._device.type == "cuda" else None
        pipeline = Pipeline(self._batch, self._threads, device_id=number, prefetch_queue_depth=PREFETCH)
        with pipeline:
            encoded = fn.external_source(source=self._feed, batch=True, no_copy=True, dtype=types.UINT8)
            images = fn.decoders.image(
                encoded, output_type=types.RGB, jpeg_fancy_upsampling=True, **self._decoding.options
            )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


def _take(block: Block, images: Any) -> Block:
    """images: DALI's list, which owns the pixels."""
    block.owner = images
    # Those of one size come at once: handing each over costs as much as decoding it.
    dense = images.is_dense_tensor()
    pixels = torch.from_dlpack(images.as_tensor()) if dense else [torch.from_dlpack(image) for image in images]
    for picture, each in zip(block.undecoded, pixels, strict=True):
        picture.pixels, picture.encoded = each, b""
    return block
