import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from discl.kernels import guided_step, reference

SHAPES = [(3, 5, 7, 9), (1, 4, 8, 8), (2, 4, 33, 31), (2, 1, 1, 1), (0, 4, 8, 8)]
DTYPES = [(torch.float32, 1e-6, 1e-6), (torch.bfloat16, 1e-6, 1e-6), (torch.float16, 1e-6, 1e-6)]


def arguments(shape, dtype=torch.float32, guided=True, history=True, noise=True, device="cpu"):
    """Random ones; every second row is unclamped."""
    generator = torch.Generator().manual_seed(sum(shape))
    normal = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    coef = normal(shape[0], 10)
    coef[:, 9] = 1.5
    coef[1::2, 9] = torch.inf
    cond, uncond = normal(*shape).to(dtype), normal(*shape).to(dtype)
    memory, drawn = normal(*shape), normal(*shape)
    values = (normal(*shape), cond, uncond if guided else None, normal(shape[0]) * 5, coef,
              memory if history else None, drawn if noise else None)  # fmt: skip
    return tuple(value if value is None else value.to(device) for value in values)


@pytest.mark.parametrize("dtype, atol, rtol", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_reference(shape, dtype, atol, rtol, device):
    for guided, history, noise in itertools.product((True, False), repeat=3):
        values = arguments(shape, dtype, guided, history, noise, device)
        torch.testing.assert_close(guided_step(*values), reference.guided_step(*values), atol=atol, rtol=rtol)


def test_takes_any_memory_layout(device):
    values = arguments((2, 4, 6, 5), device=device)
    strided = list(values)
    for place in (0, 1, 2, 5, 6):
        strided[place] = values[place].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(guided_step(*strided), guided_step(*values), atol=0, rtol=0)


def test_a_nan_comes_through_and_stays_in_its_row(device):
    values = arguments((3, 4, 2, 2), device=device)
    values[1][1, 0, 0, 0] = torch.nan
    for result in guided_step(*values):
        assert result[1, 0, 0, 0].isnan()
        assert result.isnan().sum() == 1


def test_each_row_makes_the_step_of_diffusers_at_its_own_timestep():
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps[[0, 7, 19]]
    x, cond, uncond, _, _, _, _ = arguments((3, 4, 8, 8))
    guidance = torch.tensor([1.0, 7.5, 10.0])
    now = scheduler.alphas_cumprod[timesteps]
    before = scheduler.alphas_cumprod[(timesteps - 50).clamp(0)]
    zero, one = torch.zeros(3), torch.ones(3)
    coef = [now**-0.5, -((1 / now - 1) ** 0.5), zero, one, zero, before**0.5, (1 - before) ** 0.5, zero, zero]
    coef = torch.stack([*coef, one * torch.inf], 1)
    next_x, x0 = guided_step(x, cond, uncond, guidance, coef, None, None)
    for row, timestep in enumerate(timesteps):
        out = uncond[row] + guidance[row] * (cond[row] - uncond[row])
        judge = scheduler.step(out, timestep, x[row])
        torch.testing.assert_close(next_x[row], judge.prev_sample, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(x0[row], judge.pred_original_sample, atol=1e-4, rtol=1e-5)


def test_a_row_does_not_depend_on_the_others():
    values = arguments((5, 4, 8, 8))
    together = guided_step(*values)
    alone = guided_step(*(value[2:3] for value in values))
    for crowd, single in zip(together, alone, strict=True):
        assert torch.equal(crowd[2:3], single)


def test_compiles_as_one_graph():
    values = arguments((2, 4, 8, 8))
    compiled = torch.compile(guided_step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*values), guided_step(*values), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "place, wrong, message",
    [
        (
            0,
            torch.zeros(2, 4, 8),
            r"x: expected float32 \[B, C, h, w\] on cpu, given float32 \[2, 4, 8\] on cpu",
        ),
        (
            1,
            torch.zeros(2, 4, 8, 7),
            r"cond: expected .* \[2, 4, 8, 8\] on cpu, given .* \[2, 4, 8, 7\]",
        ),
        (2, torch.zeros(2, 4, 8, 8).long(), "uncond: expected float32/bfloat16/float16 .*given int64"),
        (3, torch.zeros(2, 1), r"guidance: expected float32 \[2\]"),
        (4, torch.zeros(2, 9), r"coef: expected float32 \[2, 10\] on cpu, given float32 \[2, 9\]"),
        (5, torch.zeros(2, 4, 8, 8).half(), "history: expected float32 .*given float16"),
        (6, torch.zeros(1, 4, 8, 8), r"noise: expected float32 \[2, 4, 8, 8\]"),
        (1, torch.zeros(2, 4, 8, 8, device="meta"), "cond: expected .* on cpu, given .* on meta"),
    ],
)
def test_says_what_was_given_and_what_is_expected(place, wrong, message):
    values = list(arguments((2, 4, 8, 8)))
    values[place] = wrong
    with pytest.raises(ValueError, match=message):
        guided_step(*values)


def test_what_is_absent_counts_as_zero(device):
    """A batch whose solver draws and one whose solver remembers are the general step with nothing added."""
    values = arguments((3, 4, 5, 6), device=device)
    for place in (5, 6):
        absent, zero = list(values), list(values)
        absent[place], zero[place] = None, torch.zeros_like(values[place])
        for without, with_zero in zip(guided_step(*absent), guided_step(*zero), strict=True):
            torch.testing.assert_close(without, with_zero, atol=0, rtol=0)


def test_memory_and_noise_reach_x_alone(device):
    """x0 is the network's word; what a multistep solver remembers and what was drawn come after it."""
    values = list(arguments((2, 4, 3, 3), device=device))
    values[4][:, 7], values[4][:, 8] = 2.0, -3.0
    plain_x, plain_x0 = guided_step(*values[:5], None, None)
    next_x, x0 = guided_step(*values)
    assert torch.equal(x0, plain_x0)
    torch.testing.assert_close(next_x - plain_x, 2 * values[5] - 3 * values[6], atol=1e-4, rtol=1e-5)
