"""Rows in float8 against exact arithmetic, and the kernel against its reference."""

import secrets
import sys

import numpy as np
import pytest
import torch
from diffusers.models.activations import GEGLU

from discl.kernels import fp8_rows, geglu_fp8_rows, reference
from discl.kernels.fp8_rows import LONGEST

SHAPES = [(3, 64), (1, 256), (5, 300), (7, 1280), (2, 1), (1, 2049), (0, 32)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def rng() -> torch.Generator:
    seed = secrets.randbits(32)
    print("seed", seed)
    return torch.Generator().manual_seed(seed)


def pair(shape, rng, dtype, device):
    """Rows of very different sizes, [hidden, gate]."""
    sizes = 10 ** torch.linspace(-3, 3, shape[0])[:, None]
    hidden = sizes * torch.randn(shape, generator=rng)
    return torch.cat([hidden, 3 * torch.randn(shape, generator=rng)], 1).to(device, dtype)


def exact_geglu(x):
    hidden, gate = x.cpu().double().chunk(2, 1)
    return hidden * torch.nn.functional.gelu(gate)


def agree(given, expected, error=0.0):
    """Scales alike but for the last bits and what GELU may be off; values equal, but for the few whose exact value lies
    between two of e4m3. A row whose gates are all closed may be all error: there its values say nothing."""
    (values, scale), (judged, of_judge) = given, expected
    assert values.is_contiguous() and values.dtype == judged.dtype == torch.float8_e4m3fn
    assert ((scale - of_judge).abs() <= 1e-6 * of_judge + error / 448).all()
    next_one = torch.clamp(2**-3 * judged.float().abs(), min=2**-9)
    assert ((values.float() - judged.float()).abs() <= next_one + 2 * error / of_judge).all()
    differ = (values.float() != judged.float()).sum().item()
    assert differ <= 2 + values.numel() / 1000


def near(result, exact, error=0.0):
    """Half a step of 3 mantissa bits, or half of the smallest one, from the exact numbers."""
    values, scale = (each.cpu().double() for each in result)
    bound = exact.abs() * 2**-4 + scale * 2**-10 + error
    assert ((values * scale - exact).abs() <= bound * (1 + 1e-5)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_equal_their_reference_and_the_exact_numbers(shape, dtype, device, rng):
    x = pair(shape, rng, dtype, device)[:, : shape[1]]
    agree(fp8_rows(x), reference.fp8_rows(x))
    for result in (fp8_rows(x), reference.fp8_rows(x)):
        near(result, x.cpu().double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_geglu_equals_its_reference_and_the_exact_numbers(shape, dtype, device, rng):
    x = pair(shape, rng, dtype, device)
    hidden, gate = x.double().chunk(2, 1)
    error = 2e-7 * (hidden * gate).abs()
    agree(geglu_fp8_rows(x), reference.geglu_fp8_rows(x), error.amax(1, keepdim=True))
    for result in (geglu_fp8_rows(x), reference.geglu_fp8_rows(x)):
        near(result, exact_geglu(x), error.cpu())


def test_geglu_is_that_of_diffusers(device, rng):
    layer = GEGLU(24, 96)
    with torch.no_grad():
        x = 3 * torch.randn(50, 24, generator=rng)
        values, scale = geglu_fp8_rows(layer.proj(x).to(device))
        near((values, scale), layer(x).double(), 1e-5)
    assert torch.equal(values.float().abs().amax(1).cpu(), torch.full((50,), 448.0))


@pytest.mark.parametrize("function, halves", [(fp8_rows, 1), (geglu_fp8_rows, 2)])
def test_a_zero_row_is_zero_and_a_broken_one_stays_broken_and_alone(function, halves, device, rng):
    x = torch.randn(6, 320 * halves, generator=rng).bfloat16().to(device)
    whole = function(x)
    x[1], x[2, 5], x[3, 7], x[4, 9] = 0, torch.nan, torch.inf, -torch.inf
    with np.errstate(invalid="ignore"):  # the interpreter's arithmetic
        values, scale = function(x)
    assert (values[1].float() == 0).all() and scale[1] > 0
    assert scale[2].isnan() and values[2].float().isnan().all()
    assert (scale[3:5] == torch.inf).all()
    assert values[3, 7].float().isnan() and values[4, 9].float().isnan() and (values[3, :7].float() == 0).all()
    for row in (0, 5):
        assert torch.equal(values[row].float(), whole[0][row].float()) and torch.equal(scale[row], whole[1][row])
    judge = getattr(reference, function.__name__)(x)
    torch.testing.assert_close(values.float(), judge[0].float(), equal_nan=True, atol=0, rtol=2**-3)


def test_far_gates_close_or_pass(device):
    """gelu goes to 0 on the left and to the identity on the right, also where exp underflows."""
    gates = torch.tensor([[-60.0, -9.0, 0.0, 9.0, 60.0, 2e4]])
    values, scale = geglu_fp8_rows(torch.cat([torch.ones_like(gates), gates], 1).to(device))
    assert (values.float()[:, :3] == 0).all()
    near((values[:, 3:], scale), gates[:, 3:].double())


@pytest.mark.parametrize("function, halves", [(fp8_rows, 1), (geglu_fp8_rows, 2)])
def test_takes_any_memory_layout(function, halves, device, rng):
    x = torch.randn(64 * halves, 9, generator=rng).to(device).T
    for strided, dense in zip(function(x), function(x.contiguous()), strict=True):
        assert torch.equal(strided.float(), dense.float())


@pytest.mark.parametrize("function, halves", [(fp8_rows, 1), (geglu_fp8_rows, 2)])
def test_rows_beyond_the_registers_go_to_the_reference(function, halves, device, monkeypatch):
    monkeypatch.setattr(reference, function.__name__, lambda x: "the reference")
    assert function(torch.zeros(1, halves * (LONGEST + 1), device=device)) == "the reference"
    assert function(torch.zeros(1, halves * LONGEST, device=device)) != "the reference"


def test_geglu_stays_a_kernel_in_compiled_code(device, rng, monkeypatch):
    """As on CUDA: an operator inside one graph. Elsewhere the interpreter is behind it."""
    monkeypatch.setattr(sys.modules["discl.kernels.fp8_rows"], "stays_triton", lambda x: True)
    monkeypatch.setattr(reference, "geglu_fp8_rows", None)
    x = torch.randn(4, 96, generator=rng).to(device)

    def scaled(x):
        values, scale = geglu_fp8_rows(2 * x)
        return values.float() * scale

    compiled = torch.compile(scaled, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), scaled(x))


def test_a_cpu_compiles_the_reference(rng):
    x = torch.randn(4, 96, generator=rng)
    compiled = torch.compile(geglu_fp8_rows, fullgraph=True, backend="aot_eager")
    for given, expected in zip(compiled(x), reference.geglu_fp8_rows(x), strict=True):
        assert torch.equal(given.float(), expected.float())


@pytest.mark.parametrize(
    "function, wrong, message",
    [
        (fp8_rows, torch.zeros(3), r"x: expected .* \[N, K\] on cpu, given float32 \[3\]"),
        (fp8_rows, torch.zeros(3, 4).double(), "given float64"),
        (geglu_fp8_rows, torch.zeros(2, 3, 4), r"x: expected .* \[N, 2K\] on cpu, given float32 \[2, 3, 4\]"),
        (geglu_fp8_rows, torch.zeros(3, 5), r"rows of an even length, given \[3, 5\]"),
    ],
)
def test_says_what_was_given_and_what_is_expected(function, wrong, message):
    with pytest.raises(ValueError, match=message):
        function(wrong)
