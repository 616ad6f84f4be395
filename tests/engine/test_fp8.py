"""float8 layers against the arithmetic they stand for, and inside an engine."""

import numpy as np
import pytest
import torch
from diffusers.models.attention import FeedForward
from PIL import Image

from discl.engine import Engine, Request
from discl.engine.compiled import arrange
from discl.engine.denoiser import torch_denoiser
from discl.engine.fp8 import COARSEST, Fp8Gated, Fp8Linear, Fp8Pointwise, candidates, fuse, quantize
from discl.engine.pretrained import load_model
from discl.engine.solvers import build_solver
from discl.errors import ModelError
from discl.kernels import fp8_rows
from tests.tiny import tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("fp8") / "model", 3, channels=(32, 64))


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(20)


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 1e4, 1e20])
def test_a_row_keeps_three_mantissa_bits_and_its_own_scale(rng, size):
    rows = size * torch.randn(64, 256, generator=rng) * torch.logspace(-3, 3, 64)[:, None]
    values, scale = fp8_rows(rows)
    # Half a step of 3 mantissa bits, or half the smallest subnormal.
    bound = rows.abs() * 2**-4 + scale * 2**-10
    assert ((values.float() * scale - rows).abs() <= bound * 1.0001).all()
    assert torch.equal(values.float().abs().amax(1), torch.full((64,), 448.0))


def test_the_product_is_that_of_the_quantised_numbers(rng):
    weight, x = torch.randn(48, 64, generator=rng), torch.randn(2, 5, 64, generator=rng).bfloat16()
    bias = torch.randn(48, generator=rng).bfloat16()
    layer = Fp8Linear.of(weight.bfloat16(), bias)
    xs, ws = fp8_rows(x.flatten(0, 1)), fp8_rows(weight.bfloat16())
    exact = (xs[0].double() * xs[1]) @ (ws[0].double() * ws[1]).T
    assert torch.allclose(layer(x).flatten(0, 1).double(), exact + bias, rtol=2**-7, atol=2**-7)


def test_powers_of_two_pass_through_exactly(rng):
    layer = Fp8Linear.of(torch.randn(32, 64, generator=rng).bfloat16(), None)
    x = torch.randn(8, 64, generator=rng).bfloat16()
    factors = 2.0 ** torch.arange(-4, 4)[:, None]
    assert torch.equal(layer(x * factors.bfloat16()), layer(x) * factors.bfloat16())


def test_a_broken_row_stays_broken_and_alone(rng):
    layer = Fp8Linear.of(torch.randn(32, 64, generator=rng).bfloat16(), None)
    x = torch.randn(4, 64, generator=rng).bfloat16()
    whole = layer(x)
    x[1, 3], x[2, 0] = torch.nan, torch.inf
    out = layer(x)
    assert out[1].isnan().all() and not out[2].isfinite().any()
    assert torch.equal(out[[0, 3]], whole[[0, 3]])


def test_a_pointwise_convolution_is_the_same_product(rng):
    convolution = torch.nn.Conv2d(32, 48, 1).bfloat16()
    x = torch.randn(3, 32, 5, 7, generator=rng).bfloat16()
    layer = Fp8Pointwise.of(convolution.weight.flatten(1), convolution.bias)
    out, exact = layer(x), convolution(x)
    assert out.shape == exact.shape
    assert (out - exact).float().norm() / exact.float().norm() < COARSEST


def test_joined_layers_give_their_outputs_side_by_side(rng):
    x = torch.randn(2, 7, 64, generator=rng).bfloat16()
    for biased in (True, False):
        weights = torch.randn(3, 48, 64, generator=rng).bfloat16()
        biases = torch.randn(3, 48, generator=rng).bfloat16() if biased else [None] * 3
        layers = [Fp8Linear.of(*each) for each in zip(weights, biases, strict=True)]
        apart = torch.cat([layer(x) for layer in layers], -1)
        torch.testing.assert_close(Fp8Linear.joined(layers)(x), apart, atol=2**-6, rtol=2**-8)


@pytest.mark.parametrize("interpreted", [False, True])
def test_a_feed_forward_layer_quantises_its_geglu_as_it_is_made(rng, interpreted, monkeypatch):
    if interpreted:
        pytest.importorskip("triton.language")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    layer = FeedForward(32).bfloat16().eval()
    x = torch.randn(2, 9, 32, generator=rng).bfloat16()
    with torch.no_grad():
        gated = layer.net[0](x)
        layer.net[2] = Fp8Linear.of(layer.net[2].weight, layer.net[2].bias)
        rounded = layer.net[2](gated)
        fuse(layer)
        whole = layer(x)
        alone = torch.cat([layer(each) for each in x.split(1)])
    assert type(layer.net[2]) is Fp8Gated
    assert torch.equal(whole, alone)
    assert (whole - rounded).float().norm() < 2**-5 * rounded.float().norm()  # e4m3 magnifies bfloat16's rounding


def test_attention_projects_once_for_each_input(folder):
    model = load_model(folder, torch.device("cpu"), torch.bfloat16)
    errors = quantize(model, build_solver("ddim", model.scheduler_class, model.scheduler_config, 20))
    assert all(error <= COARSEST for error in errors.values())
    arrange(model.unet, torch.device("cuda"))  # as for a compiled engine: it lays out, and has nothing to fuse
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    blocks = [module for module in model.unet.modules() if hasattr(module, "attn1")]
    assert blocks
    for block in blocks:
        own, cross = ({name for name, _ in attention.named_children()} for attention in (block.attn1, block.attn2))
        assert own & {"to_q", "to_k", "to_v", "to_qkv"} == {"to_qkv"}
        assert cross & {"to_q", "to_k", "to_v", "to_kv"} == {"to_q", "to_kv"}


def test_calibration_leaves_out_what_is_too_coarse(folder):
    """A channel that is huge and unused drowns the others of its row, and only there."""
    model = load_model(folder, torch.device("cpu"), torch.bfloat16)
    block = next(module for module in model.unet.modules() if hasattr(module, "attn1"))
    with torch.no_grad():
        block.norm1.bias[0] = 1e5
        for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v):
            layer.weight[:, 0] = 0
    drowned = {id(layer) for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)}
    names = {name for name in candidates(model.unet) if id(model.unet.get_submodule(name)) in drowned}
    errors = quantize(model, build_solver("ddim", model.scheduler_class, model.scheduler_config, 20))
    assert {name for name, error in errors.items() if error > COARSEST} == names and len(names) == 3
    left = {name for name, layer in model.unet.named_modules() if isinstance(layer, torch.nn.Linear)}
    for name, error in errors.items():
        assert (name in left) == (error > COARSEST)


def test_calibration_is_a_function_of_the_model(folder):
    models = [load_model(folder, torch.device("cpu"), torch.bfloat16) for _ in range(2)]
    first, second = (quantize(m, build_solver("ddim", m.scheduler_class, m.scheduler_config, 20)) for m in models)
    assert first == second and first


def test_images_are_near_and_do_not_depend_on_neighbours(folder):
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    requests = [Request(picture, "a cat", level, 7 + level) for level in (0, 10, 30, 50, 70)]
    settings = {"slots": 4, "steps": 10, "device": "cpu"}
    with Engine.from_pretrained(folder, dtype="float8", **settings) as engine:
        together = {s.request.level: s.image for s in engine.run(requests)}
        alone = {s.request.level: s.image for request in requests for s in engine.run([request])}
    with Engine.from_pretrained(folder, dtype="float32", **settings) as engine:
        exact = {s.request.level: s.image for s in engine.run(requests)}
    for level, image in together.items():
        assert np.array_equal(image, alone[level])
        error = np.mean((image.astype(float) - exact[level]) ** 2)
        assert 0 < error < 255**2 / 10**2.5, f"level {level}: PSNR below 25 dB"


def test_the_denoiser_differs_only_by_rounding(folder, rng):
    exact, coarse = (load_model(folder, torch.device("cpu"), torch.bfloat16) for _ in range(2))
    quantize(coarse, build_solver("ddim", coarse.scheduler_class, coarse.scheduler_config, 20))
    text = exact.encode_text("a dog", negative=False)
    condition = exact.condition(text, 64, 64, 7.5, negative=False)
    batch = condition.zeros(1)
    batch.put(0, condition)
    x, timestep = torch.randn(1, 4, 8, 8, generator=rng), torch.full((1,), 500.0)
    with torch.no_grad():
        a, b = (torch_denoiser(m)(x, timestep, batch).float() for m in (exact, coarse))
    assert 0 < (a - b).norm() / a.norm() < COARSEST


def test_an_older_gpu_is_refused(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(ModelError, match=r"A100 has 8\.0: use dtype='bfloat16'"):
        Engine.from_pretrained(folder, dtype="float8", device="cuda")


def test_rows_of_any_layout_are_laid_out_anew(rng):
    """Tensor cores want a row's values side by side."""
    x = torch.randn(128, 32, generator=rng).T
    values, scale = fp8_rows(x)
    assert values.is_contiguous()
    assert torch.equal(values.float(), fp8_rows(x.contiguous())[0].float())
    assert torch.equal(scale, fp8_rows(x.contiguous())[1])


@pytest.mark.gpu
@pytest.mark.parametrize("transposed", [False, True])
def test_the_device_computes_what_the_cpu_does(rng, transposed):
    bias = torch.randn(64, generator=rng).bfloat16()
    layer = Fp8Linear.of(torch.randn(64, 128, generator=rng).bfloat16(), bias)
    x = torch.randn(32, 128, generator=rng).bfloat16()
    x = x.T.contiguous().T if transposed else x
    expected = layer(x).float()
    error = layer.cuda()(x.cuda()).cpu().float() - expected
    assert error.norm() < 2**-7 * expected.norm()  # both round to bfloat16; a tie of float8 may fall either way


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_feed_forward_layer_computes_on_the_device_what_the_cpu_does(rng, compiled):
    layer = FeedForward(256).bfloat16().eval()
    x = torch.randn(2, 40, 256, generator=rng).bfloat16()
    with torch.no_grad():
        layer.net[0].proj = Fp8Linear.of(layer.net[0].proj.weight, layer.net[0].proj.bias)
        layer.net[2] = Fp8Linear.of(layer.net[2].weight, layer.net[2].bias)
        fuse(layer)
        expected = layer(x).float()
        layer = layer.cuda()
        run = torch.compile(layer, fullgraph=True, dynamic=False) if compiled else layer
        error = run(x.cuda()).cpu().float() - expected
    assert error.norm() < 2**-5 * expected.norm()
