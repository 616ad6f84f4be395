"""One run: requests in, samples out. Read, schedule, step, finish; and what happens when the device runs out of memory.

Every request is at any time in exactly one of: the intake, the scheduler, the finisher, the broken ones that are made
again in float32, or the samples to be yielded.
Out of memory, all that is not decoded goes back to the scheduler and starts again at half the slots, so its bits are
those of a run with that many slots.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch

from discl.engine.faults import Capacity, is_lost_device, is_out_of_memory, lost_device
from discl.engine.finish import Finisher, rejected
from discl.engine.intake import Intake
from discl.engine.previews import Preview, Previews
from discl.engine.request import Request, Sample
from discl.engine.scheduler import Scheduler, Step
from discl.engine.slots import Slots
from discl.engine.stats import Stats
from discl.engine.work import Bucket, Preparation, Work
from discl.errors import DisclError

log = logging.getLogger(__name__)

READ_AT_ONCE = 4  # requests read beyond need at each step, until the window is full
BUFFERS_KEPT = 4  # buckets whose buffers stay allocated while nothing runs in them


class Loop:
    """The state of one run.

    At the capacity's slots, whatever they are at the time: make_slots: buffers of a bucket; shape: its (rows, places);
    resize: called after they have changed.
    """

    def __init__(
        self,
        requests: Iterable[Request | None],
        prepare: Preparation,
        finisher: Finisher,
        previews: Previews | None,
        capacity: Capacity,
        stats: Stats,
        dtype: torch.dtype,
        make_slots: Callable[[Bucket], Slots],
        shape: Callable[[Bucket], tuple[int, int]],
        resize: Callable[[], None],
    ):
        self._prepare, self._finisher, self._previews = prepare, finisher, previews
        self._capacity, self._stats = capacity, stats
        self._dtype, self._make_slots, self._resize = dtype, make_slots, resize
        self._intake = Intake(requests, prepare.networks(dtype).sources.read)
        self._scheduler = Scheduler(capacity.slots, shape=shape)
        self._buffers: dict[Bucket, Slots] = {}
        self._broken: deque[Request] = deque()  # to be made again in float32
        self._samples: deque[Sample] = deque()
        self._throttle = Throttle(prepare.device)
        self._short = False  # of memory, at the last turn

    def __iter__(self) -> Iterator[Sample]:
        try:
            while self._turn_safely():
                while self._samples:
                    yield self._samples.popleft()
            self._stats.settle()
        finally:
            self._intake.close()

    def _turn_safely(self) -> bool:
        """One turn; what the device could not do is tried again with fewer slots."""
        device = self._prepare.device
        try:
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                if self._short:
                    self._restart()
                return self._turn()
        except (RuntimeError, MemoryError) as error:
            if is_lost_device(error):
                raise lost_device(error) from error
            if not is_out_of_memory(error):
                raise
            self._capacity.halve(error)
        self._short = True  # the restart comes when the error, and what its frames held, is gone
        self._stats.out_of_memory += 1
        return True

    @torch.no_grad()
    def _turn(self) -> bool:
        """Read, step, finish. False when every request has become a sample and nothing is left to yield."""
        self._admit()
        if self._previews:
            self._judge(self._previews, everything=not self._scheduler.full)
        # What the feed waits for must not wait for a full micro-batch.
        flush = self._intake.idle and self._scheduler.wants_more and self._finisher.busy
        step = None if flush else self._scheduler.next_step()
        if step is not None:
            self._step(step)
        elif self._intake.idle and not (self._finisher.busy or self._samples or self._scheduler.busy):
            raise DisclError("requests gave None (nothing now), but no sample is under way to wait for")
        self._finisher.launch(self._stats.engine_steps, everything=step is None)
        for bucket, work, sample in self._finisher.collect(wait=step is None):
            self._deliver(bucket, work, sample)
        if self._scheduler.holding and not self._scheduler.running:
            self._grow()
        unfinished = self._broken or self._scheduler.busy or self._finisher.busy or not self._scheduler.closed
        return bool(self._samples or unfinished)

    def _admit(self) -> None:
        """Move what has been read to the scheduler; wait for the intake only while rows would stay free without it."""
        while self._broken:
            self._retry(self._broken[0])
            self._broken.popleft()
        self._read()
        while len(self._intake) and (self._intake.ready or self._scheduler.wants_more):
            self._take()
            self._read()
            if len(self._samples) >= READ_AT_ONCE:
                break  # sources that cannot be read are reported now and then, however many there are
        if self._intake.exhausted and not len(self._intake):
            self._scheduler.close()

    def _read(self) -> None:
        room = self._scheduler.window - self._scheduler.waiting - len(self._intake)
        with self._stats.timed("feed", host=True):
            self._intake.read(min(READ_AT_ONCE, room))

    def _retry(self, request: Request) -> None:
        """What half precision has broken, in float32."""
        picture = self._prepare.networks(torch.float32).sources.read(request)
        work, bucket = self._prepare(request, picture, torch.float32)
        self._scheduler.add(work, bucket, work.rows)
        self._stats.retried += 1

    def _take(self) -> None:
        """The intake's oldest request -> the scheduler, or an error sample."""
        with self._stats.timed("feed", host=True):
            request, picture, reason = self._intake.first()
        if picture is None:
            self._finish(Sample(request, status="error", reason=reason))
        else:
            work, bucket = self._prepare(request, picture, self._dtype)
            self._scheduler.add(work, bucket, work.rows)
        self._intake.pop()

    def _step(self, step: Step) -> None:
        slots = self._slots(step.bucket)
        with self._stats.timed("start"):
            for place, work in step.admitted:
                work.trace, work.rejected_at, work.reason = [], None, ""  # it may have been under way before
                latent, noise = self._prepare.start(work, step.bucket)
                slots.load(place, latent, noise, work.trajectory, work.cond, work.uncond, work.guidance)
        with self._stats.timed("unet", shape=(step.bucket, slots.rows)):
            slots.step(step.active)
        self._throttle.wait()
        self._stats.count_step(sum(active.rows for active in step.active), slots.rows)
        retired = self._scheduler.advance(step)
        if retired:
            places, works = zip(*retired, strict=True)
            self._finisher.add(step.bucket, list(works), slots.unload(places), self._stats.engine_steps)
        if self._previews:
            self._preview(self._previews, step, slots)
        if self._capacity.step() and not self._scheduler.closed:
            self._scheduler.holding = True

    def _preview(self, previews: Previews, step: Step, slots: Slots) -> None:
        """Works that are to be judged now wait for it."""
        due = previews.due(self._scheduler.progress(step))
        if due:
            x0, gaps = slots.preview([place for place, _, _ in due])
            previews.add(step.bucket, [Preview(*entry, *row) for entry, *row in zip(due, x0, gaps, strict=True)])
            for place, _, _ in due:
                self._scheduler.pause(step.bucket, place)

    def _judge(self, previews: Previews, everything: bool) -> None:
        """Works go on or end as their verdicts say; a control request always goes on."""
        previews.launch(everything)
        for bucket, place, work, steps, reason in previews.collect(wait=everything):
            if reason and work.rejected_at is None:
                work.rejected_at, work.reason = steps, reason
            if reason and not work.request.control:
                self._scheduler.drop(bucket, place)
                self._finish(rejected(work, self._capacity.slots))
            else:
                self._scheduler.pause(bucket, place, paused=False)

    def _slots(self, bucket: Bucket) -> Slots:
        if bucket not in self._buffers:
            idle = [name for name in self._buffers if name not in self._scheduler.buckets]
            for name in idle[: max(0, len(self._buffers) + 1 - BUFFERS_KEPT)]:
                del self._buffers[name]
            self._buffers[bucket] = self._make_slots(bucket)
        return self._buffers[bucket]

    def _deliver(self, bucket: Bucket, work: Work, sample: Sample) -> None:
        """A finished sample; one that half precision has broken is made again in float32."""
        if sample.status == "nan" and bucket.dtype != torch.float32:
            log.log(
                logging.INFO if self._stats.retried else logging.WARNING,
                "noise_seed %d, level %d: %s; trying float32",
                *(work.request.noise_seed, work.request.level, sample.reason),
            )
            self._broken.append(work.request)
            return
        if sample.status == "ok" and bucket.dtype != self._dtype:
            sample.reason = f"made in float32 after NaN, infinite or flat values in {str(self._dtype)[6:]}"
        self._finish(sample)

    def _finish(self, sample: Sample) -> None:
        self._stats.samples[sample.status] += 1
        self._samples.append(sample)

    def _grow(self) -> None:
        """Nothing runs: try more slots."""
        self._capacity.grow()
        self._restart()

    def _restart(self) -> None:
        """Go on at the capacity's slots with everything that is not decoded yet, from its first step."""
        self._buffers.clear()
        if self._previews:
            self._previews.clear()
        for bucket, work in self._finisher.give_back():
            self._scheduler.add(work, bucket, work.rows)
        self._scheduler.restart()
        self._scheduler.holding = self._short = False
        if self._prepare.device.type == "cuda":
            torch.cuda.synchronize(self._prepare.device)  # graphs that are about to be dropped may still run beside
        self._resize()
        if self._prepare.device.type == "cuda":
            torch.cuda.empty_cache()


class Throttle:
    """Lets the host run at most two steps ahead of a CUDA device, so that queues and memory stay short."""

    def __init__(self, device: torch.device):
        self._device = device
        self._events: deque[torch.cuda.Event] = deque()

    def wait(self) -> None:
        if self._device.type == "cuda":
            self._events.append(torch.cuda.current_stream(self._device).record_event())
            if len(self._events) > 2:
                self._events.popleft().synchronize()
