"""Requests read ahead: the caller's iterable in, decoded pictures out, in the order in which they were given.

The iterable is advanced in the caller's thread; decoding and resizing run in one thread beside the device.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from discl.engine.faults import is_out_of_memory
from discl.engine.request import Request
from discl.engine.sources import Picture
from discl.errors import DisclError

# Pillow's; and memory that one picture alone does not get: fewer slots would not help.
UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error, Image.DecompressionBombError)


class Intake:
    """A queue of requests whose pictures are being read.

    exhausted: the iterable has ended. idle: it gave None when it was last asked, for nothing now.
    """

    def __init__(self, requests: Iterable[Request | None], read: Callable[[Request], Picture]):
        self._feed, self._read = iter(requests), read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="discl-read")
        self._queue: deque[tuple[Request, Future[Picture]]] = deque()
        self.exhausted = self.idle = False

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def ready(self) -> bool:
        """Whether the next picture is there (or known not to come)."""
        return bool(self._queue) and self._queue[0][1].done()

    def read(self, count: int) -> None:
        """Take up to `count` more requests."""
        self.idle = False
        for _ in range(0 if self.exhausted else count):
            try:
                request = next(self._feed)
            except StopIteration:
                self.exhausted = True
                return
            if request is None:
                self.idle = True
                return
            if not isinstance(request, Request):
                raise DisclError(
                    f"requests gave a {type(request).__name__}: give discl.Request, or None for nothing now"
                )
            self._queue.append((request, self._pool.submit(self._read, request)))

    def first(self) -> tuple[Request, Picture | None, str]:
        """The oldest request with its picture, or with why there is none; it stays until `pop`."""
        request, future = self._queue[0]
        try:
            return request, future.result(), ""
        except (RuntimeError, *UNDECODABLE) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            return request, None, f"source image: {str(error) or type(error).__name__}"

    def pop(self) -> None:
        self._queue.popleft()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
