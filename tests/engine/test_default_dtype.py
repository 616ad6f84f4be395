"""torch's default dtype is the caller's: whatever it is, a sample is the same to the last bit."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from discl import Engine, Request
from discl.engine.fp8 import calibration_latents, start_inputs
from discl.engine.one_by_one import one_by_one
from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.judges import Tracer
from discl.engine.request import Sample
from discl.engine.solvers import SOLVERS, build_solver
from discl.kernels.clip_plan import _lines
from tests.engine.oracle import random_image
from tests.tiny import tiny_clip, tiny_lcm, tiny_sd, tiny_sdxl

FAMILIES = {"sd": tiny_sd, "sdxl": tiny_sdxl, "lcm": tiny_lcm}
STEPS = 10


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {name: make(root / name, seed=3) for name, make in FAMILIES.items()}
    return made | {"clip": str(tiny_clip(root / "clip", seed=3))}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def requests(levels) -> list[Request]:
    sizes = ((64, 64), (72, 48))
    return [
        Request(random_image(*size, seed=level), f"a {level}", level, 40 + level, key=f"{size} {level}")
        for size in sizes
        for level in levels
    ]


def everything(sample: Sample) -> tuple:
    pixels, trace = sample.image.tobytes(), [(step, row.tobytes()) for step, row in sample.trace]
    return sample.status, pixels, sample.embedding.tobytes(), sample.text_score, sample.image_score, trace


def made(default: torch.dtype, models, family: str = "sd", run=Engine.run, levels=(0, 50), **options) -> dict:
    with (
        default_dtype(default),
        Engine.from_pretrained(models[family], clip=models["clip"], steps=STEPS, **options) as engine,
    ):
        return {sample.request.key: everything(sample) for sample in run(engine, requests(levels))}


@pytest.mark.parametrize(
    "options",
    [
        *({"solver": solver} for solver in SOLVERS),
        {"mode": "pure-noise", "levels": (0,)},
        {"mode": "few-step", "text_guidance": 1.0},
        {"dtype": "bfloat16"},
        {"family": "sdxl"},
        {"family": "lcm"},
        {"run": one_by_one},
    ],
    ids=lambda options: "-".join(str(getattr(value, "__name__", value)) for value in options.values()),
)
def test_samples_are_the_same(models, options):
    known = made(torch.float32, models, **options)
    assert len(known) >= 2 and {status for status, *_ in known.values()} == {"ok"}
    assert made(torch.float64, models, **options) == known


def test_looks_part_way_are_the_same(models):
    def traced(default: torch.dtype) -> dict:
        with default_dtype(default):
            torch.manual_seed(0)
            tracer = Tracer(SmallDecoder(4, 2), ("a 0", "a 50"))
        return made(default, models, rejection=tracer)

    known = traced(torch.float32)
    assert all(trace for *_, trace in known.values())
    assert traced(torch.float64) == known


@pytest.mark.parametrize(
    "build",
    [
        lambda: calibration_latents(3, (4, 8, 6)),
        lambda: start_inputs([build_solver("ddim", "DDIMScheduler", {}, STEPS, "exact").trajectory(50)], (4, 8, 8)),
        lambda: SmallDecoder(4, 2).state_dict().items(),
        lambda: _lines.__wrapped__(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD).items(),
    ],
    ids=["calibration", "starts", "decoder", "lines"],
)
def test_what_is_worked_out_beforehand_is_the_same(build):
    def found(default: torch.dtype) -> list:
        with default_dtype(default):
            torch.manual_seed(0)
            return [part.tolist() if isinstance(part, torch.Tensor) else part for part in flat(build())]

    assert found(torch.float64) == found(torch.float32)


def flat(value) -> list:
    """The tensors and other things in an iterable of them or of tuples of them."""
    return [part for item in value for part in (item if isinstance(item, tuple) else [item])]
