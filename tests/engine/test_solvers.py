"""Exact mode: every solver makes the steps of diffusers' own scheduler, over a toy network and for any config."""

import json
import random

import diffusers
import numpy as np
import pytest
import torch

from discl.engine.noise_schedule import Trajectory, executed_steps
from discl.engine.solvers import SOLVERS, build_solver, choose_solver
from discl.errors import DisclError, ModelError
from tests.engine.scheduler_oracle import ours, theirs, toy_network

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
V = {"prediction_type": "v_prediction"}
SAMPLE = {"prediction_type": "sample"}
LEADING, LINSPACE, TRAILING = ({"timestep_spacing": name} for name in ("leading", "linspace", "trailing"))
SPACINGS = [LEADING, LINSPACE, TRAILING]
ZERO_SNR = {"rescale_betas_zero_snr": True, **TRAILING}
TO_SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
SIGMA_RULES = [{f"use_{rule}": True} for rule in ("karras_sigmas", "exponential_sigmas", "beta_sigmas")]
CONFIGS = {
    "ddim": [
        *SPACINGS, V, SAMPLE, ZERO_SNR | V, {"clip_sample": True, "clip_sample_range": 0.7},
        {"clip_sample": False, "set_alpha_to_one": False}, {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"}, {"num_train_timesteps": 700},
    ],
    "euler": [
        *SPACINGS, *SIGMA_RULES, V, SAMPLE, ZERO_SNR, ZERO_SNR | V, TO_SIGMA_MIN, {"interpolation_type": "log_linear"},
        {"timestep_type": "continuous", "use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0, **V},
        {"trained_betas": np.linspace(1e-3, 0.02, 1000).tolist()},
    ],
    "euler-ancestral": [*SPACINGS, V, ZERO_SNR, ZERO_SNR | V],
    "dpmpp-2m": [
        *SPACINGS, *SIGMA_RULES, {"use_lu_lambdas": True}, V, SAMPLE, ZERO_SNR | V, TO_SIGMA_MIN,
        {"lower_order_final": False, **TO_SIGMA_MIN}, {"euler_at_final": True, **TO_SIGMA_MIN},
        {"use_karras_sigmas": True, **TO_SIGMA_MIN}, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    ],
    "lcm": [
        {}, V, SAMPLE, ZERO_SNR | V, {"original_inference_steps": 100}, {"clip_sample": True, "clip_sample_range": 0.6},
        {"timestep_scaling": 3.0},
    ],
}  # fmt: skip
CASES = [(name, config) for name, configs in CONFIGS.items() for config in configs]


def case_id(value) -> str:
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items())[:60] or "default"


def most_steps(name: str, config: dict) -> int:
    return config.get("original_inference_steps", 50) if name == "lcm" else 60


def trajectory_of(name: str, config: dict, steps: int, level: int, mode: str = "exact") -> Trajectory:
    return build_solver(name, "of another class", SD | config, steps, mode).trajectory(level)


def assert_same_walk(scheduler, trajectory: Trajectory, expected: torch.Tensor, seed: int) -> None:
    """Within float32: roundings are relative to sigma and to how x0 magnifies the network's output (4096 at most)."""
    actual = ours(trajectory, toy_network(scheduler), seed)
    magnified = max(trajectory.sigma, float(np.abs(trajectory.rows[:, 3]).max()))
    torch.testing.assert_close(actual, expected, atol=1e-5 + 5e-7 * magnified, rtol=1e-5)


def check_exact(name: str, config: dict, pairs) -> None:
    scheduler = SOLVERS[name].scheduler_class.from_config(SD | config)
    for steps, level in pairs:
        executed = executed_steps(steps, level)
        expected = theirs(scheduler, toy_network(scheduler), steps, executed, seed=steps)
        trajectory = trajectory_of(name, config, steps, level)
        assert trajectory.rows.shape == (executed, 12)
        assert trajectory.rows.dtype == np.float32
        assert_same_walk(scheduler, trajectory, expected, seed=steps)


@pytest.mark.parametrize(("name", "config"), CASES, ids=case_id)
def test_steps_are_those_of_diffusers(name, config):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, most = random.Random(seed), most_steps(name, config)
    drawn = [(rng.randint(1, most), rng.randint(0, 99)) for _ in range(16)]
    corners = [(1, 0), (2, 0), (2, 50), (14, 0), (15, 0), (most, 0), (most, 98)]
    check_exact(name, config, [(steps, level) for steps, level in drawn + corners if steps * (100 - level) >= 100])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), CASES, ids=case_id)
def test_steps_are_those_of_diffusers_at_every_level_and_count(name, config):
    """Each number of executed steps once; levels only choose among them."""
    counts = [*range(1, 17), 25, 30, 41, most_steps(name, config)]
    check_exact(name, config, [(n, 100 - -(-100 * executed // n)) for n in counts for executed in range(1, n + 1)])


def test_every_level_runs_the_contracts_number_of_steps():
    solver = build_solver("euler", "any", SD, 50)
    for level in range(99):
        assert solver.trajectory(level).steps == 50 * (100 - level) // 100
        assert solver.trajectory(level) is solver.trajectory(level)
    with pytest.raises(DisclError, match="at least steps=100,"):
        solver.trajectory(99)


OTHER_CLASSES = ("PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler", "LCMScheduler",
                 "DEISMultistepScheduler", "SASolverScheduler", "DDPMScheduler")  # fmt: skip


@pytest.mark.parametrize("other", OTHER_CLASSES)
@pytest.mark.parametrize("name", SOLVERS)
def test_another_classs_config_is_read_as_diffusers_does(name, other):
    config = json.loads(getattr(diffusers, other)(**SD, **V).to_json_string())  # a folder's file
    meant = {"algorithm_type": "dpmsolver++"} if name == "dpmpp-2m" else {}  # which diffusers takes from no other class
    scheduler = SOLVERS[name].scheduler_class.from_config(config | meant)
    expected = theirs(scheduler, toy_network(scheduler), 20, executed_steps(20, 30), seed=3)
    assert_same_walk(scheduler, build_solver(name, other, config, 20).trajectory(30), expected, seed=3)


def test_euler_ancestral_of_a_model_that_predicts_x0():
    """diffusers stops here; the walk of the same network that says eps is the judge."""
    trajectories = [
        trajectory_of("euler-ancestral", {"prediction_type": kind}, 12, 0) for kind in ("epsilon", "sample")
    ]
    schedulers = [diffusers.EulerDiscreteScheduler(**SD, prediction_type=kind) for kind in ("epsilon", "sample")]
    by_eps, by_x0 = (ours(t, toy_network(s), 7) for t, s in zip(trajectories, schedulers, strict=True))
    torch.testing.assert_close(by_x0, by_eps, atol=1e-5, rtol=1e-5)


def test_memory_and_draws_are_where_the_solver_says():
    for name, solver_class in SOLVERS.items():
        trajectory = trajectory_of(name, {}, 20, 30)
        history, noise = trajectory.rows[:, 9], trajectory.rows[:, 10]
        assert history[0] == 0, "a request's first step has no last x0"
        assert history.any() == solver_class.uses_history
        assert trajectory.draws.any() == solver_class.draws_noise
        assert not noise[~trajectory.draws].any()
        if solver_class.draws_noise:
            np.testing.assert_array_equal(trajectory.draws, [True] * 13 + [False])


@pytest.mark.parametrize("name", ["ddim", "euler", "euler-ancestral", "dpmpp-2m"])
def test_trailing_counts_that_diffusers_overruns(name):
    """For 61 steps its grid has a 62nd at timestep -1; ours has what was asked for and ends at x0."""
    trajectory = trajectory_of(name, TRAILING, 61, 0)
    assert trajectory.steps == 61
    assert trajectory.rows[-1, 0] >= 0
    assert (np.diff(trajectory.rows[:, 0]) < 0).all()
    denoised = ours(trajectory, lambda x, t: x * 0 if t > 100 else x, 1)
    assert denoised.isfinite().all()
    if name != "ddim":
        np.testing.assert_array_equal(trajectory.rows[-1, [6, 8, 9, 10]], 0)  # nothing but x0 is left
        assert trajectory.rows[-1, 7] == 1


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ddim", "thresholding", True),
        ("lcm", "thresholding", True),
        ("dpmpp-2m", "thresholding", True),
        ("dpmpp-2m", "solver_order", 3),
        ("dpmpp-2m", "solver_type", "heun"),
        ("dpmpp-2m", "algorithm_type", "sde-dpmsolver++"),
        ("dpmpp-2m", "variance_type", "learned_range"),
        ("dpmpp-2m", "use_flow_sigmas", True),
    ],
)
def test_options_that_are_not_done_are_refused_by_name(name, option, value):
    with pytest.raises(ModelError, match=f"{option}={value!r}".replace("+", r"\+")):
        build_solver(name, "any", SD | {option: value}, 10)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_prediction_of_another_kind_is_refused_before_any_request(name):
    with pytest.raises(ModelError, match="predicts 'flow_prediction': epsilon, v_prediction, sample are supported"):
        build_solver(name, "any", SD | {"prediction_type": "flow_prediction"}, 10)


@pytest.mark.parametrize(
    ("name", "config", "steps", "message"),
    [
        ("euler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, 10, "use_beta_sigmas"),
        ("euler", {"beta_schedule": "sigmoid"}, 10, "sigmoid"),
        ("ddim", {}, 1001, "steps=1001"),
        ("lcm", {}, 51, "steps=51"),
        ("ddim", {}, 1000, "steps=1000 with steps_offset=1 begins at timestep 1000"),
        ("ddim", ZERO_SNR, 10, "timestep 999: .*no signal"),
        ("dpmpp-2m", LEADING, 1000, "steps=1000.*repeats a noise level"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(name, config, steps, message):
    with pytest.raises(DisclError, match=message) as caught:
        trajectory_of(name, config, steps, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "IPNDMScheduler"])
@pytest.mark.parametrize("name", ["auto", "euler"])
def test_schedules_of_another_kind_are_refused_by_name(name, other):
    """diffusers' from_config would fill in betas that the model was never trained on."""
    config = dict(getattr(diffusers, other)().config) | {"_class_name": other}
    with pytest.raises(ModelError, match=f"{other} has no betas"):
        build_solver(name, other, config, 10)


def test_a_grid_beyond_the_training_timesteps_is_no_matter_to_levels_that_start_below():
    check_exact("ddim", {}, [(1000, 30)])


def test_no_signal_at_the_top_is_no_matter_to_levels_that_start_below():
    check_exact("ddim", ZERO_SNR, [(10, 10), (10, 50)])


def test_auto_is_the_models_own_or_the_nearest_with_one_message(caplog):
    for name, solver_class in SOLVERS.items():
        assert choose_solver("auto", solver_class.scheduler_class.__name__) == name
        assert choose_solver(name, "PNDMScheduler") == name
    assert not caplog.records
    assert choose_solver("auto", "UniPCMultistepScheduler") == "dpmpp-2m"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(ModelError, match=r"solver='heun'.*ddim, euler, euler-ancestral, dpmpp-2m, lcm"):
        choose_solver("heun", "DDIMScheduler")
