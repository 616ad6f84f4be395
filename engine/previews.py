"""Latents part-way -> verdicts: will this request's image be rejected? Judged in micro-batches beside the denoiser.

A request that is to be judged pauses, others take its rows, and it goes on or gives up its place when the verdict is
there. So a rejected request costs no step more than its verdict needs, and no verdict depends on who shares the batch.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from discl.engine.networks import Networks
from discl.engine.stats import Stats
from discl.engine.transfer import beside, download
from discl.engine.work import Bucket, Work

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer


class Rejection(Protocol):
    """What the engine asks of early rejection."""

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        """Executed steps, of a level's `steps`, after which a preview may be judged; none of them the last."""

    def wants(self, work: Work, steps: int) -> bool:
        """Whether to look at this request after `steps` executed steps. Told before anything is computed."""

    def features(self, networks: Networks, scorer: "Scorer", works: Sequence[Work], x0: torch.Tensor,
                 gaps: torch.Tensor) -> torch.Tensor:  # fmt: skip
        """x0 [n, C, h, w] and squared guidance gaps [n] of the last step -> float32 [n, F], on the device.

        A row depends on its own work alone; n is at most the autoencoder's batch.
        """

    def rejects(self, work: Work, steps: int, features: np.ndarray) -> str:
        """The verdict on one request after `steps` executed steps, from its features [F], the last of `work.trace`:
        why it is given up, or an empty string."""


def no_checks(level: int, steps: int) -> tuple[int, ...]:
    """Of an engine without early rejection."""
    return ()


class Preview(NamedTuple):
    """A request that waits for its verdict after `steps` executed steps."""

    place: int
    work: Work
    steps: int
    x0: torch.Tensor
    gap: torch.Tensor


class Flight(NamedTuple):
    """A micro-batch under way: `features` on the host are filled once `event` has passed."""

    bucket: Bucket
    previews: list[Preview]
    features: torch.Tensor
    event: torch.cuda.Event | None


class Verdict(NamedTuple):
    bucket: Bucket
    place: int
    work: Work
    steps: int
    reason: str  # empty: it goes on


class Previews:
    """Collects previews and hands out verdicts."""

    def __init__(
        self,
        rejection: Rejection,
        networks: Callable[[torch.dtype], Networks],
        scorer: "Scorer",
        stats: Stats,
        stream: torch.cuda.Stream | None,
    ):
        self._rejection, self._networks, self._scorer = rejection, networks, scorer
        self._stats, self._stream = stats, stream
        self._waiting: dict[Bucket, list[Preview]] = {}
        self._flights: deque[Flight] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._flights)

    def wants(self, work: Work, steps: int) -> bool:
        if steps not in work.checks:
            return False
        with self._stats.timed("verdict", host=True):
            return self._rejection.wants(work, steps)

    def add(self, bucket: Bucket, previews: list[Preview]) -> None:
        self._waiting.setdefault(bucket, []).extend(previews)

    def launch(self, everything: bool = False) -> None:
        """Start the micro-batches that are full; with `everything`, all."""
        for bucket in list(self._waiting):
            waiting, batch = self._waiting[bucket], self._networks(bucket.dtype).autoencoder.batch
            while len(waiting) >= batch or (waiting and everything):
                self._flights.append(self._launch(bucket, waiting[:batch]))
                del waiting[:batch]
            if not waiting:
                del self._waiting[bucket]

    def collect(self, wait: bool = False) -> Iterator[Verdict]:
        """The verdicts that have arrived; with `wait`, all that were started."""
        while self._flights and (wait or (event := self._flights[0].event) is None or event.query()):
            flight = self._flights.popleft()
            if flight.event:
                flight.event.synchronize()
            for preview, features in zip(flight.previews, flight.features.numpy(), strict=True):
                preview.work.trace.append((preview.steps, features.copy()))
                with self._stats.timed("verdict", host=True):
                    reason = self._rejection.rejects(preview.work, preview.steps, features)
                yield Verdict(flight.bucket, preview.place, preview.work, preview.steps, reason)

    def clear(self) -> None:
        """Forget what was not judged."""
        self._waiting.clear()
        self._flights.clear()

    def _launch(self, bucket: Bucket, previews: list[Preview]) -> Flight:
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with beside(self._stream), self._stats.timed("preview"):
            features = self._rejection.features(
                self._networks(bucket.dtype),
                self._scorer,
                [preview.work for preview in previews],
                torch.stack([preview.x0 for preview in previews]),
                torch.stack([preview.gap for preview in previews]),
            )
            features = download(features)
            event = torch.cuda.current_stream(self._stream.device).record_event() if self._stream else None
        self._stats.previews += len(previews)
        return Flight(bucket, previews, features, event)
