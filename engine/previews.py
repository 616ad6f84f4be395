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

    def wants(self, works: Sequence[Work], steps: Sequence[int]) -> list[bool]:
        """Whether to look at each request, after its number of executed steps. Told before anything is computed."""

    def features(self, networks: Networks, scorer: "Scorer", works: Sequence[Work], x0: torch.Tensor,
                 gaps: torch.Tensor) -> torch.Tensor:  # fmt: skip
        """x0 [n, C, h, w] and squared guidance gaps [n] of the last step -> float32 [n, F], on the device.

        A row depends on its own work alone; n is always the networks' preview batch, and a request may come twice.
        """

    def verdicts(self, works: Sequence[Work], steps: Sequence[int], features: np.ndarray) -> list[str]:
        """On each request, after its number of executed steps, from its row of features [n, F], the last of its trace:
        why it is given up, or an empty string. A verdict depends on its own work alone."""


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

    def due(self, running: Sequence[tuple[int, Work, int]]) -> list[tuple[int, Work, int]]:
        """Of (place, work, steps done), those that are to be judged now."""
        checked = [entry for entry in running if entry[2] in entry[1].checks]
        if not checked:
            return []
        _, works, steps = zip(*checked, strict=True)
        with beside(self._stream), self._stats.timed("verdict", host=True):  # there its sources were embedded
            wanted = self._rejection.wants(works, steps)
        return [entry for entry, wants in zip(checked, wanted, strict=True) if wants]

    def add(self, bucket: Bucket, previews: list[Preview]) -> None:
        self._waiting.setdefault(bucket, []).extend(previews)

    def launch(self, everything: bool = False) -> None:
        """Start the micro-batches that are full; with `everything`, all."""
        for bucket in list(self._waiting):
            waiting, batch = self._waiting[bucket], self._networks(bucket.dtype).preview_batch
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
            for preview, reason in zip(flight.previews, self._reasons(flight), strict=True):
                yield Verdict(flight.bucket, preview.place, preview.work, preview.steps, reason)

    def clear(self) -> None:
        """Forget what was not judged."""
        self._waiting.clear()
        self._flights.clear()

    def _reasons(self, flight: Flight) -> list[str]:
        features = flight.features.numpy()
        with self._stats.timed("verdict", host=True):
            for preview, row in zip(flight.previews, features, strict=True):
                preview.work.trace.append((preview.steps, row.copy()))
            works, steps = [preview.work for preview in flight.previews], [preview.steps for preview in flight.previews]
            return self._rejection.verdicts(works, steps, features)

    def _launch(self, bucket: Bucket, previews: list[Preview]) -> Flight:
        networks = self._networks(bucket.dtype)
        missing = networks.preview_batch - len(previews)
        filled = previews + previews[-1:] * missing  # always one size, so that a row's bits do not depend on the others
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with beside(self._stream), self._stats.timed("preview"):
            features = self._rejection.features(
                networks,
                self._scorer,
                [preview.work for preview in filled],
                torch.stack([preview.x0 for preview in filled]),
                torch.stack([preview.gap for preview in filled]),
            )
            features = download(features[: len(previews)])
            event = torch.cuda.current_stream(self._stream.device).record_event() if self._stream else None
        self._stats.previews += len(previews)
        return Flight(bucket, previews, features, event)
