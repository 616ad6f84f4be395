"""Encoded images in, decoded ones out, block by block in order: threads read and decode some blocks ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from discl.data.images import decode_image
from discl.errors import DataError, StoreError

AHEAD = 2  # blocks that the threads work on while an earlier one is waited for
TOGETHER = 4  # pictures that a thread takes at a time: handing over one costs as much as reading it


@dataclass
class Picture:
    """One image on its way.

    path: as quarantine.jsonl names it. read: gives its encoded bytes, in any thread. name: in error texts, by default
    the path. Then one of: pixels, uint8 RGB [H, W, 3]; encoded, left to another decoder; reason, why there is neither.
    """

    path: str
    read: Callable[[], bytes]
    name: str = ""
    pixels: torch.Tensor | None = None
    encoded: bytes = b""
    reason: str = ""

    def load(self, leave: Callable[[bytes], bool], reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Read, and decode with PIL unless `leave` says that another decoder takes these bytes; keep what `reduce`
        leaves of the pixels."""
        name = self.name or self.path
        try:
            self.encoded = self.read()
            if not leave(self.encoded):
                self.decode()
            if self.pixels is not None:
                self.pixels = reduce(self.pixels)
        except OSError as error:
            self.reason = f"{name}: cannot be read: {error.strerror or error}"
        except (DataError, StoreError, RuntimeError, IndexError) as error:
            self.reason = str(error)
        except ValueError as error:  # a strip that a resize to the tower's size would leave nothing of
            self.reason = f"{name}: {error}"

    def decode(self) -> None:
        """The encoded bytes to pixels, with PIL; a reason where that fails."""
        data, self.encoded = self.encoded, b""
        try:
            self.pixels = torch.from_numpy(np.array(decode_image(data, self.name or self.path)))
        except DataError as error:
            self.reason = str(error)


@dataclass
class Block:
    """Images that are decoded and embedded together.

    rows: what the caller knows of them. pictures: None where there is nothing to decode. embedded: float32 [n, D], NaN
    where there is no embedding yet. owner: of the pixels' memory, where they do not own it.
    """

    rows: Any
    pictures: list[Picture | None]
    embedded: np.ndarray
    owner: Any = None

    @property
    def undecoded(self) -> list[Picture]:
        return [picture for picture in self.pictures if picture and picture.encoded]

    def images(self) -> list[Image.Image | None]:
        """As PIL images, of those whose pixels are on the CPU."""
        return [
            None if picture is None or picture.pixels is None else Image.fromarray(picture.pixels.numpy())
            for picture in self.pictures
        ]


def nothing(data: bytes) -> bool:
    """Leaves no image to another decoder."""
    return False


def whole(pixels: torch.Tensor) -> torch.Tensor:
    return pixels


def loaded(
    blocks: Iterable[Block], pool: Executor, leave: Callable[[bytes], bool] = nothing,
    reduce: Callable[[torch.Tensor], torch.Tensor] = whole,
) -> Iterator[Block]:  # fmt: skip
    """The same blocks once their pictures are loaded; `AHEAD` further ones are under way.

    What `blocks` raises comes after the blocks before it.
    """
    waiting: deque[tuple[Block, list[Future]]] = deque()
    source = iter(blocks)
    while True:
        try:
            block = next(source)
        except Exception as raised:  # StopIteration, too
            error = raised
            break
        pictures = [picture for picture in block.pictures if picture]
        parts = [pictures[at : at + TOGETHER] for at in range(0, len(pictures), TOGETHER)]
        waiting.append((block, [pool.submit(_load, part, leave, reduce) for part in parts]))
        if len(waiting) > AHEAD:
            yield _done(*waiting.popleft())
    while waiting:
        yield _done(*waiting.popleft())
    if not isinstance(error, StopIteration):
        raise error


def _load(
    pictures: list[Picture], leave: Callable[[bytes], bool], reduce: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    for picture in pictures:
        picture.load(leave, reduce)


def _done(block: Block, futures: list[Future]) -> Block:
    for future in futures:
        future.result()
    return block
