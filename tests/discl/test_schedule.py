"""Rates equal torch's own schedulers, step by step."""

from types import SimpleNamespace

import pytest
import torch
from torch.optim import lr_scheduler

from discl.fitting import set_rate

PEAK = 0.1


def rates(schedule, warmup, steps):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=9.0)
    out = []
    for step in range(steps):
        set_rate(optimizer, SimpleNamespace(lr=PEAK, schedule=schedule, warmup=warmup), step, steps)
        out.append(optimizer.param_groups[0]["lr"])
    return out


def torchs(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
    scheduler, out = make(optimizer), []
    for _ in range(steps):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


@pytest.mark.parametrize("steps", [4, 31])
def test_cosine(steps):
    assert rates("cosine", 0.0, steps) == pytest.approx(
        torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps), steps)
    )


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.3), (50, 0.1)])
def test_cosine_after_a_linear_warm_up(steps, warmup):
    rising = round(steps * warmup)

    def make(optimizer):
        up = lr_scheduler.LinearLR(optimizer, 1 / (rising + 1), 1.0, rising)
        down = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - rising)
        return lr_scheduler.SequentialLR(optimizer, [up, down], [rising])

    assert rates("cosine", warmup, steps) == pytest.approx(torchs(make, steps))


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.0), (40, 0.0), (40, 0.125), (100, 0.5)])
def test_one_cycle(steps, warmup):
    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer, PEAK, total_steps=steps, pct_start=warmup or 0.3, cycle_momentum=False
        )

    assert rates("one-cycle", warmup, steps) == pytest.approx(torchs(make, steps))


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.5, 0.99])
def test_short_trainings_have_sound_rates(schedule, steps, warmup):
    assert all(0 < rate <= PEAK for rate in rates(schedule, warmup, steps))
