"""Finished latents -> decoded, checked and scored samples, in micro-batches of one size beside the denoiser.

On CUDA the work goes to a stream of its own and the results come back through pinned memory; nothing waits for them
until they have arrived.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from discl.engine.faults import Capacity
from discl.engine.networks import Networks
from discl.engine.request import Request, Sample
from discl.engine.stats import Stats
from discl.engine.transfer import beside, download
from discl.engine.work import Bucket, Work

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer

IN_FLIGHT = 2  # micro-batches that may be under way on a device before the next one waits
MAX_WAIT = 1000  # engine steps after which a latent is decoded although its micro-batch is not full


@dataclass(eq=False)
class Waiting:
    """Finished latents of one bucket, [C, h, w] each, until they fill a micro-batch."""

    works: list[Work]
    latents: list[torch.Tensor]
    since: int


@dataclass(eq=False)
class Flight:
    """A micro-batch under way: host tensors that are filled once `event` has passed.

    works hold the tensors that the device may still read. slots: what they were made with. scores: embeddings [n, D],
    text and image scores [n].
    """

    bucket: Bucket
    works: list[Work]
    slots: int
    pixels: torch.Tensor
    finite: torch.Tensor
    scores: tuple[torch.Tensor, ...]
    event: torch.cuda.Event | None


class Finisher:
    """Collects finished latents and turns them into samples.

    score_text: the text that a request's image is judged against.
    """

    def __init__(
        self,
        networks: Callable[[torch.dtype], Networks],
        scorer: "Scorer | None",
        score_text: Callable[[Request], str],
        stats: Stats,
        capacity: Capacity,
        stream: torch.cuda.Stream | None,
    ):
        self._networks, self._scorer, self._score_text, self._stats = networks, scorer, score_text, stats
        self._capacity, self._stream = capacity, stream
        self._waiting: dict[Bucket, Waiting] = {}
        self._flights: deque[Flight] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._flights)

    def add(self, bucket: Bucket, works: list[Work], latents: torch.Tensor, now: int) -> None:
        """latents [n, C, h, w] of n finished works; now: the engine's step."""
        waiting = self._waiting.setdefault(bucket, Waiting([], [], now))
        waiting.works += works
        waiting.latents += latents.unbind()

    def launch(self, now: int, everything: bool = False) -> None:
        """Start the micro-batches that are full or have waited long; with `everything`, all."""
        for bucket in list(self._waiting):
            waiting = self._waiting[bucket]
            batch = self._networks(bucket.dtype).autoencoder.batch
            while len(waiting.works) >= batch or (waiting.works and (everything or now - waiting.since > MAX_WAIT)):
                self._flights.append(self._launch(bucket, waiting.works[:batch], waiting.latents[:batch]))
                del waiting.works[:batch], waiting.latents[:batch]
                waiting.since = now
            if not waiting.works:
                del self._waiting[bucket]

    def collect(self, wait: bool = False) -> Iterator[tuple[Bucket, Work, Sample]]:
        """The samples that have arrived, in order; with `wait`, all that were started."""
        while self._flights and (wait or len(self._flights) > IN_FLIGHT or _arrived(self._flights[0])):
            flight = self._flights[0]
            if flight.event:
                flight.event.synchronize()
            samples = list(self._samples(flight))
            self._flights.popleft()  # not before: what fails is tried again
            yield from samples

    def give_back(self) -> list[tuple[Bucket, Work]]:
        """Works whose latents were not decoded yet; they are forgotten here."""
        returned = [(bucket, work) for bucket, waiting in self._waiting.items() for work in waiting.works]
        self._waiting.clear()
        return returned

    def _launch(self, bucket: Bucket, works: list[Work], latents: list[torch.Tensor]) -> Flight:
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            for latent in latents:
                latent.record_stream(self._stream)
        with beside(self._stream):
            batch = torch.stack(latents)
            with self._stats.timed("decode", shape=bucket):
                pixels, finite = self._networks(bucket.dtype).autoencoder.decode(batch)
                finite &= torch.isfinite(batch).flatten(1).all(1)
            scores: tuple[torch.Tensor, ...] = ()
            if self._scorer:
                with self._stats.timed("score", shape=bucket):
                    scores = self._score(works, pixels)
            host = [download(tensor) for tensor in (pixels, finite, *scores)]
            event = torch.cuda.current_stream(self._stream.device).record_event() if self._stream else None
        return Flight(bucket, works, self._capacity.slots, host[0], host[1], tuple(host[2:]), event)

    def _score(self, works: list[Work], pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        embeddings = self._scorer.embed_images(pixels)
        texts = self._scorer.embed_texts([self._score_text(work.request) for work in works])
        references = torch.stack([work.source.embedding for work in works])
        return embeddings, (embeddings * texts).sum(1), (embeddings * references).sum(1)

    def _samples(self, flight: Flight) -> Iterator[tuple[Bucket, Work, Sample]]:
        images, finite = flight.pixels.numpy(), flight.finite.tolist()
        for i, work in enumerate(flight.works):
            sample = Sample(work.request, slots=flight.slots, rejected_at=work.rejected_at, trace=work.trace)
            sample.reason = defect(finite[i], images[i])
            sample.status = "nan" if sample.reason else "ok"
            if sample.status == "ok":
                sample.reason = work.reason and f"control, would have been given up at {work.reason}"
                sample.image = images[i].copy()
                if flight.scores:
                    embeddings, text_scores, image_scores = flight.scores
                    sample.embedding = embeddings[i].numpy().copy()
                    sample.text_score, sample.image_score = float(text_scores[i]), float(image_scores[i])
            yield flight.bucket, work, sample


def rejected(work: Work, slots: int) -> Sample:
    """The sample of a request that early rejection has given up."""
    return Sample(
        work.request,
        status="rejected-early",
        reason=work.reason,
        slots=slots,
        rejected_at=work.rejected_at,
        trace=work.trace,
    )


def defect(finite: bool, image: np.ndarray) -> str:
    """Why an image must not be kept, or an empty string."""
    if not finite:
        return "the latent or the decoded image has NaN or infinite values"
    if image.min() == image.max():
        return f"the decoded image is flat (every value is {image.min()})"
    return ""


def _arrived(flight: Flight) -> bool:
    return flight.event is None or flight.event.query()
