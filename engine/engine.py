"""Requests -> samples: schedule, start, step, finish, score. The loop; the rooms beside it do the work."""

import struct
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from discl.engine.autoencoder import Autoencoder
from discl.engine.condition import Condition
from discl.engine.denoiser import torch_denoiser
from discl.engine.options import BACKENDS, DTYPES, find_device, refuse_unknown
from discl.engine.pretrained import DiffusionModel, load_model
from discl.engine.reproducible import stable_rows
from discl.engine.request import Request, Sample
from discl.engine.scheduler import Scheduler
from discl.engine.slots import Slots
from discl.engine.solvers import build_solver
from discl.engine.sources import Source, Sources
from discl.engine.stats import Stats
from discl.engine.text import Texts
from discl.errors import DisclError

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer

DECODE_BATCH = 8
UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)  # Pillow's


@dataclass(frozen=True)
class Shape:
    """A bucket: every request in it runs at one static shape."""

    height: int
    width: int
    guided: bool


@dataclass(eq=False)
class Work:
    """A request on its way through the engine."""

    request: Request
    source: Source
    guidance: float


class Engine:
    """Batched multi-guidance img2img. A sample depends on its request alone, whatever shares the batch.

    Use `Engine.from_pretrained`, as a context manager. One `run` at a time; `stats` accumulates over the engine's life.
    """

    def __init__(
        self,
        model: DiffusionModel,
        scorer: "Scorer | None",
        *,
        device: torch.device,
        dtype: torch.dtype,
        slots: int,
        backend: str = "torch",
        solver: str = "auto",
        steps: int = 50,
        text_guidance: float = 7.5,
        score_prompt: str | None = None,
    ):
        self.model, self.scorer, self.device, self.dtype = model, scorer, device, dtype
        self.slots, self.steps, self.text_guidance, self.score_prompt = (
            slots,
            steps,
            text_guidance,
            score_prompt,
        )
        self.solver = build_solver(solver, model.scheduler_class, model.scheduler_config, steps)
        self.stats = Stats()
        self._texts = Texts(model.encode_text)
        self._autoencoder = Autoencoder(model, device, batch=micro_batch(slots))
        self._denoise = torch_denoiser(model.unet, dtype, compiled=backend == "torch-compile")
        self._batches: dict[Shape, Slots] = {}
        self._sources = Sources(self._autoencoder, scorer)
        self._running = False

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        clip: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        slots: int | str = "auto",
        backend: str = "torch",
        exported: str | None = None,
        solver: str = "auto",
        mode: str = "exact",
        steps: int = 50,
        text_guidance: float = 7.5,
        score_prompt: str | None = None,
        rejection: dict | None = None,
    ) -> "Engine":
        """Load a diffusers folder (or `hub:` id) and, with `clip`, an open_clip scorer.

        backend: "torch" (eager) or "torch-compile". solver: "auto", "ddim" or "euler". text_guidance: library scale g
        (the paper's w is g-1); at most 1 means no guidance. Raises ModelError for what cannot be loaded and DisclError
        for options this version does not have.
        """
        refuse_unknown(dtype=(dtype, DTYPES), backend=(backend, BACKENDS), mode=(mode, ("exact",)))
        if exported:
            raise DisclError(f"exported={exported!r} goes with an exported backend, which this version does not have")
        if rejection:
            raise DisclError("rejection (early rejection) is not available in this version: leave it None")
        chosen = find_device(device)
        if slots == "auto":
            slots = 8 if chosen.type == "cpu" else 16
        if not isinstance(slots, int) or slots < 1:
            raise DisclError(f"slots={slots!r}: give 'auto' or a whole number of at least 1")
        if not 1 <= steps <= 1000:
            raise DisclError(f"steps={steps!r}: give a whole number from 1 to 1000")
        model = load_model(path, chosen, DTYPES[dtype])
        scorer = None
        if clip:
            from discl.engine.scorer import Scorer  # open_clip takes seconds to import

            scorer = Scorer.from_pretrained(clip, device=chosen, batch=micro_batch(slots))
        return cls(
            model,
            scorer,
            device=chosen,
            dtype=DTYPES[dtype],
            slots=slots,
            backend=backend,
            solver=solver,
            steps=steps,
            text_guidance=text_guidance,
            score_prompt=score_prompt,
        )

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Drop buffers and caches; the engine can run again and allocates them anew."""
        self._batches.clear()
        self._sources.clear()

    def run(self, requests: Iterable[Request | None]) -> Iterator[Sample]:
        """Yield samples as they finish. `requests` may be endless; about 4 times `slots` of it are read ahead.

        It may give None for "nothing now" while samples are under way, and so ask for more by what has come out: the
        engine goes on with what it holds and asks again. Raises DisclError for a None when nothing is under way.
        """
        if self._running:
            raise DisclError(
                "this engine is already running: finish or close the first run's iterator, or use a second engine"
            )
        self._running = True
        scheduler = Scheduler(self.slots)
        finished: dict[Shape, list[tuple[Work, torch.Tensor]]] = defaultdict(list)
        feed = iter(requests)
        try:
            while True:
                waits = yield from self._admit(feed, scheduler)
                if waits and any(finished.values()):  # what the feed waits for must not wait for a full micro-batch
                    yield from self._flush(finished)
                    continue
                step = scheduler.next_step()
                if step is None and waits:
                    raise DisclError("requests gave None (nothing now), but no sample is under way to wait for")
                if step is None:
                    break
                batch = self._batch(step.bucket)
                for slot, work in step.admitted:
                    self._start(batch, slot, work, step.bucket)
                with self.stats.timed("unet"), torch.no_grad():
                    batch.step()
                self.stats.count_step(step.active, self.slots, step.bucket.guided)
                done = finished[step.bucket]
                done.extend((work, batch.unload(slot)) for slot, work in scheduler.advance(step.bucket))
                while len(done) >= self._autoencoder.batch:
                    yield from self._complete([done.pop(0) for _ in range(self._autoencoder.batch)])
            yield from self._flush(finished)
        finally:
            self._running = False
            self._batches.clear()

    def _admit(self, feed: Iterator[Request | None], scheduler: Scheduler) -> Generator[Sample, None, bool]:
        """Read requests while slots would stay free without them; yields those that cannot even start.

        Returns whether the feed has nothing now.
        """
        while scheduler.wants_more:
            try:
                request = next(feed)
            except StopIteration:
                scheduler.close()
                break
            if request is None:
                return True
            steps = self.solver.trajectory(request.level).steps
            try:
                work, shape = self._prepare(request)
            except UNDECODABLE as error:
                yield self._count(Sample(request, status="error", reason=f"source image: {error}"))
                continue
            scheduler.add(work, shape, steps)
        return False

    def _prepare(self, request: Request) -> tuple[Work, Shape]:
        """Encode source and texts (each once) and find the request's static shape."""
        image = request.rgb()
        width, height = (side - side % self.model.multiple for side in request.size or image.size)
        if min(width, height) < self.model.multiple:
            raise ValueError(
                f"{' x '.join(map(str, request.size or image.size))} pixels: a latent cell alone has "
                f"{self.model.multiple} pixels a side"
            )
        guidance = self.text_guidance if request.text_guidance is None else request.text_guidance
        shape = Shape(height, width, guided=self.model.guided(guidance))
        with self.stats.timed("encode"), torch.no_grad():
            source = self._sources(image, height, width)
        with self.stats.timed("text"), torch.no_grad():
            self._texts(request.prompt)
            self._texts(request.negative_prompt, negative=True)
        return Work(request, source, guidance), shape

    def _start(self, batch: Slots, slot: int, work: Work, shape: Shape) -> None:
        request = work.request
        trajectory = self.solver.trajectory(request.level)
        with self.stats.timed("start"), torch.no_grad():
            latent = self._autoencoder.start_latent(work.source.moments, request.noise_seed, trajectory)
            batch.load(slot, latent, *self._conditions(work, shape), work.guidance, trajectory.rows)

    def _conditions(self, work: Work, shape: Shape) -> tuple[Condition, Condition]:
        """With the prompt and with the negative prompt."""
        sides = ((work.request.prompt, False), (work.request.negative_prompt, True))
        cond, uncond = (
            self.model.condition(self._texts(text, negative), shape.height, shape.width, work.guidance, negative)
            for text, negative in sides
        )
        return cond, uncond

    def _batch(self, shape: Shape) -> Slots:
        if shape not in self._batches:
            cell = self.model.multiple
            latent_shape = (self.model.latent_channels, shape.height // cell, shape.width // cell)
            self._batches[shape] = Slots(self.slots, latent_shape, shape.guided, self.device, self._denoise)
        return self._batches[shape]

    def _flush(self, finished: dict[Shape, list[tuple[Work, torch.Tensor]]]) -> Iterator[Sample]:
        """Complete everything that is finished, also in micro-batches that are not full."""
        for done in finished.values():
            while done:
                batch = done[: self._autoencoder.batch]
                del done[: self._autoencoder.batch]
                yield from self._complete(batch)

    def _complete(self, done: list[tuple[Work, torch.Tensor]]) -> Iterator[Sample]:
        """Decode, check and score one micro-batch of finished latents."""
        latents = torch.stack([latent for _, latent in done])
        with self.stats.timed("decode"), torch.no_grad():
            pixels, finite = self._autoencoder.decode(latents)
            finite = (finite & torch.isfinite(latents).flatten(1).all(1)).tolist()
        samples = [Sample(work.request) for work, _ in done]
        for sample, whole, image in zip(samples, finite, pixels.cpu().numpy(), strict=True):
            sample.reason = _defect(whole, image)
            sample.status = "nan" if sample.reason else "ok"
            sample.image = None if sample.reason else image.copy()
        if self.scorer:
            with self.stats.timed("score"), torch.no_grad():
                self._score(samples, [work.source for work, _ in done], pixels)
        for sample in samples:
            yield self._count(sample)

    def _score(self, samples: list[Sample], sources: list[Source], pixels: torch.Tensor) -> None:
        embeddings = self.scorer.embed_images(pixels)
        texts = self.scorer.embed_texts([self._score_text(sample.request) for sample in samples])
        references = torch.stack([source.embedding for source in sources])
        text_scores = (embeddings * texts).sum(1).tolist()
        image_scores = (embeddings * references).sum(1).tolist()
        for i, sample in enumerate(samples):
            if sample.status == "ok":
                sample.embedding = embeddings[i].cpu().numpy()
                sample.text_score, sample.image_score = text_scores[i], image_scores[i]

    def _score_text(self, request: Request) -> str:
        """score_text, else score_prompt with the class name, else the prompt."""
        if request.score_text is not None:
            return request.score_text
        if self.score_prompt is not None:
            return self.score_prompt.replace("{class}", request.class_name or "")
        return request.prompt

    def _count(self, sample: Sample) -> Sample:
        self.stats.samples[sample.status] += 1
        return sample


def _defect(finite: bool, image: np.ndarray) -> str:
    """Why an image must not be kept, or an empty string."""
    if not finite:
        return "the latent or the decoded image has NaN or infinite values"
    if image.min() == image.max():
        return f"the decoded image is flat (every value is {image.min()})"
    return ""


def micro_batch(slots: int) -> int:
    """Rows that are decoded and scored together: about as many as finish together."""
    return stable_rows(min(slots, DECODE_BATCH))
