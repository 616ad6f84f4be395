"""Few-step and pure-noise mode: laws, and diffusers' own schedulers where theirs has such a walk."""

import numpy as np
import pytest
import torch

from discl.engine.noise_schedule import Trajectory
from discl.engine.solvers import SOLVERS, build_solver
from discl.errors import DisclError
from tests.engine.scheduler_oracle import ours, theirs, theirs_from_noise, toy_network
from tests.engine.test_solvers import (
    CASES,
    LEADING,
    LINSPACE,
    SD,
    SIGMA_RULES,
    TRAILING,
    ZERO_SNR,
    V,
    assert_same_walk,
    case_id,
    trajectory_of,
)

GRIDS = [(name, spacing) for name in ("ddim", "euler", "euler-ancestral", "dpmpp-2m") for spacing in
         (LEADING, LINSPACE, TRAILING, V | TRAILING)]  # fmt: skip
RULES = [(name, rule) for name in ("euler", "dpmpp-2m") for rule in SIGMA_RULES if "beta" not in str(rule)]


def noise_ratios(scheduler) -> np.ndarray:
    """sigma / signal of every training timestep."""
    return (1 / scheduler.alphas_cumprod.double().numpy() - 1) ** 0.5


def assert_same_trajectory(actual: Trajectory, expected: Trajectory) -> None:
    np.testing.assert_array_equal(actual.rows, expected.rows)
    np.testing.assert_array_equal(actual.draws, expected.draws)
    assert (actual.signal, actual.sigma) == (expected.signal, expected.sigma)


@pytest.mark.parametrize(("name", "config"), [*GRIDS, *RULES], ids=case_id)
@pytest.mark.parametrize("level", [0, 37, 90])
def test_few_steps_begin_at_the_levels_start_whatever_their_number(name, config, level):
    """The start is that of exact mode with a step for each training timestep, to the nearest training timestep."""
    fine = trajectory_of(name, config if config in SIGMA_RULES else config | TRAILING, 1000, level)
    starts = set()
    for steps in (1, 4, 7):
        few = trajectory_of(name, config, steps, level, "few-step")
        assert few.rows.shape == (steps, 12)
        stride = -np.diff(few.rows[:, 0])  # DPM++ rounds the timesteps of placed sigmas
        assert (stride > 0).all() or (config in SIGMA_RULES and (stride >= 0).all())
        starts.add((float(few.rows[0, 0]), few.signal, few.sigma))
    assert len(starts) == 1
    timestep, signal, sigma = starts.pop()
    if config not in SIGMA_RULES:
        assert timestep == 10 * (100 - level) - 1
    known = noise_ratios(SOLVERS[name].scheduler_class(**SD))
    start = int(np.abs(known - sigma / signal).argmin())
    assert sigma / signal == pytest.approx(known[start])
    assert start - 1 <= timestep <= start + 0.01  # diffusers cuts the timesteps of DPM++'s exponential sigmas
    assert known[start - 1] < fine.sigma / fine.signal < (known[start + 1] if level else np.inf)


def test_few_steps_share_the_noise_of_the_exact_start():
    """At steps that put a grid point on the level's start, exact mode starts from the very same noise."""
    few = trajectory_of("euler", TRAILING, 4, 30, "few-step")
    assert few.sigma == trajectory_of("euler", TRAILING, 50, 30).sigma


WHOLE = [case for case in CASES if case[1].get("timestep_spacing") != "leading" and case[0] != "ddim"]


@pytest.mark.parametrize(("name", "config"), WHOLE, ids=case_id)
@pytest.mark.parametrize("steps", [2, 4, 9])
def test_few_steps_at_level_0_are_the_exact_schedule(name, config, steps):
    config = (TRAILING if name == "ddim" else {}) | config
    assert_same_trajectory(trajectory_of(name, config, steps, 0, "few-step"), trajectory_of(name, config, steps, 0))


@pytest.mark.parametrize("name", ["ddim", "euler", "euler-ancestral", "dpmpp-2m"])
@pytest.mark.parametrize(("steps", "level"), [(1, 50), (4, 50), (5, 50), (8, 60), (3, 70), (9, 10)])
def test_few_steps_are_the_end_of_a_finer_exact_walk(name, steps, level):
    """With trailing spacing diffusers reaches K steps below a level by asking for K / (1 - level/100)."""
    finer = 100 * steps // (100 - level)
    scheduler = SOLVERS[name].scheduler_class.from_config(SD | TRAILING)
    expected = theirs(scheduler, toy_network(scheduler), finer, steps, seed=steps)
    assert_same_walk(scheduler, trajectory_of(name, TRAILING, steps, level, "few-step"), expected, seed=steps)


@pytest.mark.parametrize("config", [{}, {"original_inference_steps": 20}, V], ids=case_id)
@pytest.mark.parametrize(("steps", "level"), [(1, 0), (4, 0), (4, 10), (4, 50), (3, 58), (2, 90), (8, 29)])
def test_few_lcm_steps_are_those_of_the_latent_consistency_pipeline(config, steps, level):
    scheduler = SOLVERS["lcm"].scheduler_class.from_config(SD | config)
    distilled = scheduler.config.original_inference_steps
    strength = (distilled * (100 - level) // 100 + 0.5) / distilled  # the pipeline floors a float
    expected = theirs(scheduler, toy_network(scheduler), steps, steps, seed=9, strength=strength)
    assert_same_walk(scheduler, trajectory_of("lcm", config, steps, level, "few-step"), expected, seed=9)


@pytest.mark.parametrize(("name", "config"), [*GRIDS, *RULES], ids=case_id)
def test_few_steps_use_only_the_noise_levels_that_the_model_knows(name, config):
    """A walk over a shortened schedule asks the network at the timesteps of the noise that is there."""
    scheduler = SOLVERS[name].scheduler_class.from_config(SD | config)
    few = trajectory_of(name, config, 4, 50, "few-step")
    known = noise_ratios(scheduler)
    ratio = few.sigma / few.signal
    np.testing.assert_allclose(ratio, np.interp(few.rows[0, 0], np.arange(1000), known), rtol=1e-5)
    if few.rows[0, 1] != 1:  # the sigma solvers' input scale tells every step's noise
        ratios = np.sqrt(1 / few.rows[:, 1].astype(np.float64) ** 2 - 1)
        np.testing.assert_allclose(ratios, np.interp(few.rows[:, 0], np.arange(1000), known), rtol=2e-3)


def test_few_steps_of_a_model_without_terminal_signal():
    """Betas are rescaled once: below the top the start is exact mode's, at the top there is no signal left."""
    config = ZERO_SNR | V
    for name in ("ddim", "euler"):
        few, exact = trajectory_of(name, config, 4, 50, "few-step"), trajectory_of(name, config, 8, 50)
        np.testing.assert_allclose(few.rows, exact.rows, rtol=1e-6)
    assert trajectory_of("ddim", config, 4, 0, "few-step").signal == 0


@pytest.mark.parametrize(
    ("name", "steps", "level", "most"), [("ddim", 12, 99, 10), ("euler", 11, 99, 10), ("lcm", 8, 90, 5)]
)
def test_more_steps_than_timesteps_are_refused_with_the_most(name, steps, level, most):
    with pytest.raises(DisclError, match=rf"steps={steps} at level {level}.* at most steps={most},"):
        trajectory_of(name, TRAILING, steps, level, "few-step")
    assert trajectory_of(name, TRAILING, most, level, "few-step").steps == most


def test_a_level_below_all_distilled_timesteps_is_refused_in_the_steps_that_were_given():
    with pytest.raises(DisclError, match=r"steps=4 at level 99 .* only 0 of the 50 timesteps .*; use a lower level$"):
        trajectory_of("lcm", TRAILING, 4, 99, "few-step")


@pytest.mark.parametrize(("name", "config"), CASES, ids=case_id)
def test_pure_noise_is_diffusers_text_to_image(name, config):
    scheduler = SOLVERS[name].scheduler_class.from_config(SD | config)
    for steps in (1, 4, 20):
        trajectory = trajectory_of(name, config, steps, 0, "pure-noise")
        assert trajectory.signal == 0
        network = toy_network(scheduler)
        expected = theirs_from_noise(scheduler, network, steps, seed=steps)
        tolerance = 1e-5 + 5e-7 * max(trajectory.sigma, float(np.abs(trajectory.rows[:, 3]).max()))
        torch.testing.assert_close(ours(trajectory, network, steps, source=False), expected, atol=tolerance, rtol=1e-5)


def test_pure_noise_has_level_0_only():
    with pytest.raises(DisclError, match=r"level=30 in mode pure-noise.*level 0"):
        trajectory_of("ddim", {}, 10, 30, "pure-noise")


def test_unknown_mode_names_the_known_ones():
    with pytest.raises(DisclError, match=r"mode='fast'.*exact, few-step, pure-noise"):
        build_solver("ddim", "any", SD, 10, "fast")
