"""Any iterable of requests; and gradients through the denoiser."""

import itertools
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from discl import DisclError, Engine, Request
from discl.engine import finish, loop
from discl.engine.condition import Condition
from discl.engine.scheduler import Scheduler
from discl.kernels import guided_step
from tests.engine.oracle import random_image
from tests.tiny import tiny_sd


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Engine.from_pretrained(tiny_sd(tmp_path_factory.mktemp("sd"), seed=14), steps=4, slots=3) as engine:
        yield engine


def requests(count: int):
    image = random_image(64, 64, seed=0)
    return [Request(image, "a cat", (0, 50)[i % 2], noise_seed=i, key=str(i)) for i in range(count)]


class OnlyGetItem:
    """The oldest way to be iterable."""

    def __init__(self, items):
        self.items = items

    def __getitem__(self, index):
        return self.items[index]


KINDS = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "getitem": OnlyGetItem,
    "generator": lambda r: (x for x in r),
    "dict": dict.fromkeys,
}


@pytest.mark.parametrize("wrap", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("count", [0, 1, 20])
def test_any_finite_iterable(engine, wrap, count):
    samples = list(engine.run(wrap(requests(count))))
    assert sorted(int(s.request.key) for s in samples) == list(range(count))
    assert all(s.status == "ok" for s in samples)


def test_the_same_request_twice_comes_out_twice(engine):
    (request,) = requests(1)
    samples = list(engine.run([request] * 5))
    assert len(samples) == 5
    for sample in samples:
        np.testing.assert_array_equal(sample.image, samples[0].image)


def test_the_iterable_is_advanced_in_the_callers_thread(engine):
    threads = set()

    def feed():
        for request in requests(8):
            threads.add(threading.current_thread())
            yield request

    assert len(list(engine.run(feed()))) == 8
    assert threads == {threading.current_thread()}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("discl-read")]


def test_an_error_of_the_iterable_is_the_callers_and_the_engine_runs_again(engine):
    def feed():
        yield from requests(20)
        raise KeyError("the caller's")

    seen = []
    with pytest.raises(KeyError, match="the caller's"):
        for sample in engine.run(feed()):
            seen.append(sample.status)
    assert set(seen) <= {"ok"}
    assert len(list(engine.run(requests(3)))) == 3


@pytest.mark.parametrize("stranger", [5, "a cat", Request])
def test_what_is_no_request_is_named(engine, stranger):
    with pytest.raises(DisclError, match=f"requests gave a {type(stranger).__name__}"):
        list(engine.run([stranger]))


def test_endless_sources_that_cannot_be_read_are_reported_as_they_come(engine):
    broken = Request(Image.new("RGB", (8, 4)), "a cat", 0, 0)  # half a latent cell
    run = engine.run(itertools.repeat(broken))
    found = list(itertools.islice(run, 50))
    assert {sample.status for sample in found} == {"error"}
    assert all("8 x 4 pixels" in sample.reason and "give an image" in sample.reason for sample in found)
    run.close()


def test_a_size_that_comes_once_in_an_endless_run_comes_out(engine, monkeypatch):
    """It waits for more of its kind, in the scheduler and for a full micro-batch, but not for ever."""
    monkeypatch.setattr(loop, "Scheduler", partial(Scheduler, patience=20))
    monkeypatch.setattr(finish, "MAX_WAIT", 20)

    def feed():
        yield Request(random_image(48, 48, seed=1), "a dog", 50, noise_seed=1, key="rare")
        for i in itertools.count():
            yield Request(random_image(64, 64, seed=0), "a cat", 50, noise_seed=i, key="common")

    run = engine.run(feed())
    assert any(sample.request.key == "rare" for sample in itertools.islice(run, 200))
    run.close()


def test_gradients_flow_through_a_guided_step(engine):
    """The engine runs without gradients; its parts do not forbid them."""
    networks = engine.networks()
    text = networks.texts("a cat").states
    states = text.expand(2, *text.shape).clone().requires_grad_()
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    row = torch.from_numpy(engine.solver.trajectory(0).rows[:1])
    out = networks.denoise(x.expand(2, -1, -1, -1) * row[0, 1], row[:, 0].expand(2), Condition(states))
    after, _ = guided_step(x, out[:1], out[1:], torch.full((1,), 7.5), row[:, 2:], None, None)
    after.square().sum().backward()
    assert x.grad.abs().sum() > 0 and states.grad.abs().sum() > 0
