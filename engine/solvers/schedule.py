"""Scheduler config + steps -> a diffusers scheduler with its timesteps set: where a level begins, in what strides."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from discl.engine.noise_schedule import executed_steps
from discl.errors import DisclError, ModelError

# Options that place the grid by noise and not by timestep.
SIGMA_RULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def load_scheduler(scheduler_class: type, config: Mapping) -> Any:
    """diffusers' `from_config`. Raises ModelError for a config that the class does not take or that has no betas."""
    if config and not (config.keys() & {"beta_start", "beta_schedule"} or config.get("trained_betas")):
        raise ModelError(
            f"the model's scheduler {config.get('_class_name', '')} has no betas: the solvers walk noise schedules of "
            "Stable Diffusion's kind, not flow matching or EDM"
        )
    try:
        return scheduler_class.from_config(config)  # type: ignore[attr-defined]
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise ModelError(f"the model's scheduler config does not make a {scheduler_class.__name__}: {error}") from error


def set_steps(scheduler: Any, steps: int, **options) -> None:
    """Set `steps` timesteps. Raises DisclError where the scheduler cannot."""
    try:
        scheduler.set_timesteps(steps, **options)
    except ValueError as error:
        raise DisclError(f"steps={steps} does not fit the model's schedule: {error}") from error
    if len(scheduler.timesteps) > steps:
        # Trailing spacing counts down in floats, which for some counts (61 of 1000) adds a step at timestep -1.
        scheduler.timesteps, scheduler.num_inference_steps = scheduler.timesteps[:steps], steps
        if hasattr(scheduler, "sigmas"):
            scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])


def shorten(scheduler: Any, steps: int, level: int) -> Any:
    """Few-step mode: the same rule with all `steps` steps on the training timesteps up to the level's start.

    It is the schedule that diffusers makes for a model which was trained on timesteps 0..s alone, s being where exact
    mode with one step per training timestep starts: T*(100-level)//100 - 1, or the timestep nearest to its noise when
    the config places sigmas (Karras and the like). So the first timestep is s whatever `steps` is, and level 0 is the
    exact schedule of as many steps. What does not begin at the top of its range is read as the spacing that does:
    leading as trailing, whose strides are the same, or as linspace where sigmas are placed between its ends; and
    linspace with one step, which diffusers puts at timestep 0, as trailing.

    Raises DisclError when there are more steps than training timesteps, which only placed sigmas can pass between.
    """
    config = scheduler.config
    kept = start_timestep(scheduler, level) + 1
    if steps > kept and (kept == 1 or not places_sigmas(config)):
        raise DisclError(
            f"steps={steps} at level {level} in mode few-step: only {kept} training timesteps lie below its start; "
            f"use at most steps={kept}, or a lower level"
        )
    changes: dict[str, Any] = {}
    if config.timestep_spacing == "leading" or steps == 1:
        changes["timestep_spacing"] = "linspace" if places_sigmas(config) and steps > 1 else "trailing"
    if kept < config.num_train_timesteps:
        changes |= {"trained_betas": scheduler.betas[:kept].tolist(), "num_train_timesteps": kept}
        if config.rescale_betas_zero_snr:
            changes |= {"rescale_betas_zero_snr": False}  # these betas are rescaled already
    short = type(scheduler).from_config(config, **changes)
    set_steps(short, steps)
    return short


def places_sigmas(config: Mapping) -> bool:
    """Whether noise levels are placed by a rule of their own (Karras et al. 2022, equation 5, and its kin)."""
    return any(config.get(rule) for rule in SIGMA_RULES)


def start_timestep(scheduler: Any, level: int) -> int:
    """The training timestep from which a level starts when exact mode makes one step per training timestep."""
    train = scheduler.config.num_train_timesteps
    executed = executed_steps(train, level)
    if not places_sigmas(scheduler.config):
        return executed - 1
    fine = type(scheduler).from_config(scheduler.config)
    fine.set_timesteps(train)
    trained = np.log(1 / scheduler.alphas_cumprod.double().numpy() - 1) / 2
    return int(np.abs(trained - np.log(fine.sigmas[train - executed].item())).argmin())
