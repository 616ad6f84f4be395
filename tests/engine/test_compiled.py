"""The compiled path: one graph per static shape, none after warm-up, every row of a batch alike, close to eager."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from discl import Engine, Request
from discl.engine.compiled import ByShape, StaticGraphs
from discl.engine.condition import Condition
from discl.engine.denoiser import torch_denoiser
from discl.engine.options import warn_if_slow
from discl.engine.pretrained import load_model
from tests.engine.oracle import random_image
from tests.tiny import tiny_clip, tiny_sd, tiny_sd2, tiny_sdxl

CPU = torch.device("cpu")
SOLVERS = ("ddim", "euler", "euler-ancestral", "dpmpp-2m", "lcm")


@pytest.fixture(autouse=True)
def fresh_dynamo():
    """Other tests' graphs hang on the same code objects."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def crowd(levels=(0, 10, 30, 50, 80), count=12) -> list[Request]:
    images = [random_image(32, 32, seed=i) for i in range(2)]
    return [
        Request(images[i % 2], f"a {'abc' * i}", levels[i % len(levels)], noise_seed=i, negative_prompt="x" * (i % 3))
        for i in range(count)
    ]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_no_graph_is_compiled_after_warm_up_whatever_levels_solvers_and_prompts(tmp_path):
    folder, clip = tiny_sd(tmp_path / "sd", vae_levels=3), str(tiny_clip(tmp_path / "clip"))
    settings = {"slots": 4, "steps": 6, "backend": "torch-compile"}
    before = graphs()
    with Engine.from_pretrained(folder, clip=clip, solver="ddim", **settings) as first:
        list(first.run(crowd(count=1)))
        # UNet, posterior, pixels, CLIP's image tower.
        assert graphs() - before == 4
        with torch._dynamo.config.patch(error_on_recompile=True):
            for solver in SOLVERS:
                with Engine.from_pretrained(folder, clip=clip, solver=solver, **settings) as engine:
                    engine._networks, engine.scorer = first._networks, first.scorer
                    samples = list(engine.run(crowd()))
                    engine._networks = {}
                assert [sample.status for sample in samples] == ["ok"] * 12
        assert graphs() - before == 4


@pytest.mark.parametrize("seed", [3])
@pytest.mark.parametrize(
    ("make", "dtype", "latent"), [(tiny_sd2, torch.bfloat16, (5, 7)), (tiny_sdxl, torch.float32, (2, 3))]
)
def test_every_row_of_a_compiled_batch_computes_the_same_bits(tmp_path, make, dtype, latent, seed):
    model = load_model(make(tmp_path / "model", seed), CPU, dtype)
    one = model.condition(model.encode_text("a cat", False), 64, 64, 5.0, False)
    batch = Condition(*(None if part is None else part.expand(8, *part.shape).contiguous() for part in one))
    x = torch.randn(1, 4, *latent, generator=torch.Generator().manual_seed(seed)).expand(8, -1, -1, -1).contiguous()
    timestep = torch.full((8,), 500.0)
    with torch.no_grad():
        out = torch_denoiser(model, compiled=True)(x, timestep, batch)
        eager = torch_denoiser(model)(x, timestep, batch)
    assert torch.equal(out, out[:1].expand_as(out))
    assert torch.equal(eager, eager[:1].expand_as(eager))
    torch.testing.assert_close(out, eager, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_more_shapes_than_torchs_own_limit_stay_compiled():
    graph = StaticGraphs(lambda x, pair: (x.sin() + pair[0], pair[1]), CPU)
    before = graphs()
    for size in [*range(1, 11), *range(1, 11)]:
        x = torch.randn(size, generator=torch.Generator().manual_seed(size))
        result, nothing = graph(x, (x, None))
        torch.testing.assert_close(result, x.sin() + x)
        assert nothing is None
    assert graphs() - before == 10
    assert torch._dynamo.config.recompile_limit < 10


@pytest.mark.gpu
def test_cuda_graphs_copy_their_outputs_and_inputs():
    device = torch.device("cuda")
    graph = StaticGraphs(lambda x: (x.sin() * 2, x + 1), device)
    inputs = [torch.randn(4, 8, device=device) for _ in range(3)] + [torch.randn(5, 8, device=device)]
    outputs = [graph(x) for x in inputs]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        outputs += [graph(x) for x in inputs]
    torch.cuda.synchronize()
    for x, (sine, more) in zip(inputs * 2, outputs, strict=True):
        torch.testing.assert_close(sine, x.sin() * 2)
        torch.testing.assert_close(more, x + 1)


@pytest.mark.gpu
def test_graphs_of_two_functions_run_side_by_side():
    """Few rows and a long inner side: products that are summed in parts, through the stream's cuBLAS workspace."""
    device, rng = torch.device("cuda"), torch.Generator("cuda").manual_seed(7)
    weights = [torch.randn(16384, 64, device=device, generator=rng).bfloat16() for _ in range(2)]
    functions = [ByShape(lambda inputs, w=w: lambda x: x @ w, device) for w in weights]
    inputs = torch.randn(16, 16384, device=device, generator=rng).bfloat16()
    alone = [function(inputs) for function in functions]
    torch.cuda.synchronize()
    together: list[list[torch.Tensor]] = [[], []]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for _ in range(200):
        for function, stream, made in zip(functions, streams, together, strict=True):
            with torch.cuda.stream(stream):
                made.append(function(inputs))
    torch.cuda.synchronize()
    for expected, made in zip(alone, together, strict=True):
        assert all(torch.equal(out, expected) for out in made)


@pytest.mark.gpu
def test_a_compiled_cuda_engine_is_bit_equal_alone_and_in_a_crowd(tmp_path):
    folder = tiny_sd(tmp_path / "sd", vae_levels=3)
    with Engine.from_pretrained(folder, slots=4, steps=6, backend="torch-compile", dtype="bfloat16") as engine:
        together = {sample.request.noise_seed: sample for sample in engine.run(crowd())}
        for request in crowd()[:3]:
            (alone,) = engine.run([request])
            np.testing.assert_array_equal(alone.image, together[request.noise_seed].image)


@pytest.mark.parametrize("capable", [True, False])
def test_a_cpu_without_bfloat16_says_so(monkeypatch, caplog, capable):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: capable)
    warn_if_slow(CPU, torch.float32)
    warn_if_slow(torch.device("cuda"), torch.float16)
    assert not caplog.records
    warn_if_slow(CPU, torch.bfloat16)
    assert ["AVX512-BF16 or AMX" in record.message for record in caplog.records] == ([] if capable else [True])
