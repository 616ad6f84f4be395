"""Out of memory, NaN and a lost device: every request still comes out exactly once, with the bits it must have."""

import logging
import random
from collections import Counter

import numpy as np
import pytest
import torch

from discl import Engine, Request
from discl.engine.faults import Capacity, is_lost_device, is_out_of_memory
from discl.errors import RunFailed
from tests.engine.oracle import random_image
from tests.tiny import tiny_clip, tiny_sd

STEPS, SLOTS = 8, 8


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return tiny_sd(root / "sd", seed=9), str(tiny_clip(root / "clip", seed=9))


def crowd(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    images = [random_image(*rng.choice([(64, 64), (64, 64), (72, 48)]), seed=i) for i in range(6)]
    return [
        Request(rng.choice(images), "a cat", rng.choice((0, 25, 50)), rng.randrange(2**32), key=str(i))
        for i in range(count)
    ]


class FailsAtRandom:
    """Lets a call fail for want of memory now and then, while more than one slot is in use."""

    def __init__(self, engine: Engine, seed: int, share: float):
        self.engine, self.share, self.rng, self.failed = engine, share, random.Random(seed), Counter()

    def __call__(self, name: str, function):
        def call(*args, **options):
            if self.engine._capacity.slots > 1 and self.rng.random() < self.share:
                self.failed[name] += 1
                raise torch.OutOfMemoryError(f"CUDA out of memory in {name}")
            return function(*args, **options)

        return call


def sabotage(engine: Engine, seed: int, share: float) -> FailsAtRandom:
    fails, networks = FailsAtRandom(engine, seed, share), engine.networks()
    networks.denoise = fails("denoise", networks.denoise)
    networks.autoencoder.decode = fails("decode", networks.autoencoder.decode)
    networks.autoencoder.encode = fails("encode", networks.autoencoder.encode)
    networks.autoencoder.clean_latent = fails("start", networks.autoencoder.clean_latent)
    engine.scorer.embed_images = fails("score", engine.scorer.embed_images)
    return fails


@pytest.mark.parametrize("seed", range(6))
def test_every_request_comes_out_once_with_the_bits_of_a_run_at_its_slots(models, seed):
    folder, clip = models
    requests = crowd(40, seed)
    with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=SLOTS) as engine:
        fails = sabotage(engine, seed, share=0.05)
        engine._capacity.patience = 6
        samples = list(engine.run(requests))
    assert fails.failed, f"seed {seed}: nothing failed"
    assert engine.stats.out_of_memory == fails.failed.total()
    assert sorted(s.request.key for s in samples) == sorted(r.key for r in requests), f"seed {seed}, {fails.failed}"
    for slots in {sample.slots for sample in samples}:
        with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=slots) as plain:
            judge = {sample.request.key: sample for sample in plain.run(requests)}
        for sample in samples:
            if sample.slots == slots:
                assert sample.status == "ok"
                np.testing.assert_array_equal(sample.image, judge[sample.request.key].image, f"seed {seed}")
                np.testing.assert_array_equal(sample.embedding, judge[sample.request.key].embedding)
                assert sample.text_score == judge[sample.request.key].text_score


def test_slots_are_halved_and_grow_back(models, caplog):
    folder, clip = models
    with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=SLOTS) as engine, caplog.at_level(logging.INFO):
        denoise, fail = engine.networks().denoise, [True]

        def once(*args):
            if fail.pop() if fail else False:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return denoise(*args)

        engine.networks().denoise = once
        engine._capacity.patience = 5
        slots = [sample.slots for sample in engine.run(crowd(60, 1))]
    assert slots[0] == SLOTS // 2 and slots[-1] == SLOTS
    assert slots == sorted(slots)
    assert sum("out of memory" in record.message for record in caplog.records) == 1
    assert sum("trying 8 slots" in record.message for record in caplog.records) == 1


def test_one_slot_that_does_not_fit_is_a_clear_end(models):
    with Engine.from_pretrained(models[0], steps=STEPS, slots=4) as engine:

        def full(*args):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

        engine.networks().denoise = full
        with pytest.raises(RunFailed, match=r"one slot alone .*2 GiB\).* smaller") as caught:
            list(engine.run(crowd(3, 2)))
        assert "\n" not in str(caught.value)


def test_growing_takes_longer_each_time_it_fails():
    capacity = Capacity(8, patience=4)
    error = torch.OutOfMemoryError("CUDA out of memory")
    waits = []
    for _ in range(4):
        capacity.halve(error)
        waits.append(next(i for i in range(1, 1000) if capacity.step()))
        capacity.grow()
        assert capacity.slots == 8
    assert waits == sorted(waits) and waits[-1] >= 4 * waits[0]


def test_a_lost_device_ends_the_run_in_one_line_and_keeps_what_was_yielded(models):
    with Engine.from_pretrained(models[0], steps=STEPS, slots=2) as engine:
        denoise, calls = engine.networks().denoise, []

        def breaks(*args):
            calls.append(1)
            if len(calls) > 30:
                raise torch.AcceleratorError(
                    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors ..."
                )
            return denoise(*args)

        engine.networks().denoise = breaks
        seen = []
        with pytest.raises(RunFailed, match=r"illegal memory access.*new process") as caught:
            for sample in engine.run(crowd(40, 3)):
                seen.append(sample.status)
        assert seen and set(seen) == {"ok"}
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"), True, False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("CUDA error: unspecified launch failure"), False, True),
        (RuntimeError("shape mismatch"), False, False),
        (ValueError("out of memory"), False, False),
    ],
)
def test_what_an_error_means(error, memory, lost):
    assert (is_out_of_memory(error), is_lost_device(error)) == (memory, lost)


def break_start(networks, noise_seed: int) -> None:
    """The request with this seed starts from an infinite latent; it is recognised by its first draw."""
    clean_latent = networks.autoencoder.clean_latent
    first = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(noise_seed))

    def broken(moments, draw):
        latent = clean_latent(moments, draw)
        return latent * float("inf") if torch.equal(draw, first) else latent

    networks.autoencoder.clean_latent = broken


def square(count: int) -> list[Request]:
    return [Request(random_image(64, 64, seed=i), "a cat", 50, noise_seed=i, key=str(i)) for i in range(count)]


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_what_half_precision_breaks_is_made_in_float32(models, dtype):
    folder, clip = models
    requests = square(9)
    with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=4) as engine:
        exact = {sample.request.key: sample for sample in engine.run(requests)}
    with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=4, dtype=dtype) as engine:
        plain = {sample.request.key: sample for sample in engine.run(requests)}
        break_start(engine.networks(), noise_seed=3)
        samples = list(engine.run(requests))
        assert engine.stats.retried == 1
    assert sorted(s.request.key for s in samples) == sorted(r.key for r in requests)
    for sample in samples:
        assert sample.status == "ok"
        again = sample.request.key == "3"
        np.testing.assert_array_equal(sample.image, (exact if again else plain)[sample.request.key].image)
        assert ("float32" in sample.reason) == again


def test_what_float32_breaks_as_well_is_nan_once(models):
    with Engine.from_pretrained(models[0], steps=STEPS, slots=4, dtype="bfloat16") as engine:
        break_start(engine.networks(), noise_seed=3)
        break_start(engine.networks(torch.float32), noise_seed=3)
        samples = {sample.request.key: sample for sample in engine.run(square(6))}
    assert len(samples) == 6
    assert [key for key, sample in samples.items() if sample.status == "nan"] == ["3"]
    assert samples["3"].image is None


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory")],
)
def test_a_picture_that_does_not_fit_is_an_error_of_its_own(models, error):
    """Fewer slots would not help it, and its neighbours go on."""
    requests = crowd(6, 4)
    with Engine.from_pretrained(models[0], steps=STEPS, slots=4) as engine:
        read = engine.networks().sources.read

        def fails(request):
            if request.key == "2":
                raise error
            return read(request)

        engine.networks().sources.read = fails
        samples = {sample.request.key: sample for sample in engine.run(requests)}
    assert len(samples) == 6 and engine.stats.out_of_memory == 0
    assert [key for key, sample in samples.items() if sample.status == "error"] == ["2"]
    assert samples["2"].reason.startswith("source image: ") and len(samples["2"].reason) > len("source image: ")
