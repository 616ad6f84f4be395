"""Noise schedule -> update coefficients: one published solver per file, each row of a batch at its own step.

Every solver is a row of the same ten numbers (see `discl.kernels.guided_step`), so the engine's step knows no solver.
"""

import logging

from discl.engine.solvers.base import MODES, Solver
from discl.engine.solvers.ddim import Ddim
from discl.engine.solvers.dpmpp_2m import DpmSolverPlusPlus2M
from discl.engine.solvers.euler import Euler
from discl.engine.solvers.euler_ancestral import EulerAncestral
from discl.engine.solvers.lcm import Lcm
from discl.errors import ModelError

__all__ = ["MODES", "SOLVERS", "Solver", "build_solver", "choose_solver"]

log = logging.getLogger(__name__)

SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver for solver in (Ddim, Euler, EulerAncestral, DpmSolverPlusPlus2M, Lcm)
}
NATIVE = {solver.scheduler_class.__name__: name for name, solver in SOLVERS.items()}
# Which of ours walks the same kind of grid as a pipeline's own scheduler that has no twin here.
NEAREST = {
    "HeunDiscreteScheduler": "euler",
    "LMSDiscreteScheduler": "euler",
    "KDPM2DiscreteScheduler": "euler",
    "KDPM2AncestralDiscreteScheduler": "euler-ancestral",
    "DPMSolverSinglestepScheduler": "dpmpp-2m",
    "DPMSolverSDEScheduler": "dpmpp-2m",
    "DEISMultistepScheduler": "dpmpp-2m",
    "SASolverScheduler": "dpmpp-2m",
    "UniPCMultistepScheduler": "dpmpp-2m",
    "TCDScheduler": "lcm",
}


def build_solver(name: str, scheduler_class: str, scheduler_config: dict, steps: int, mode: str = "exact") -> Solver:
    """The solver `name` (or `auto`) over a model's schedule.

    scheduler_class, scheduler_config: the model's own, as its folder says; a solver of another class reads the config
    as diffusers' `from_config` does. Raises ModelError for an unknown name or option, DisclError for unfit steps.
    """
    return SOLVERS[choose_solver(name, scheduler_class)](scheduler_config, steps, mode)


def choose_solver(name: str, scheduler_class: str) -> str:
    """`auto` takes the pipeline's own solver, or the nearest with a message; ModelError for an unknown name."""
    if name != "auto":
        if name not in SOLVERS:
            raise ModelError(f"solver={name!r} is not known: choose one of auto, {', '.join(SOLVERS)}")
        return name
    if scheduler_class in NATIVE:
        return NATIVE[scheduler_class]
    nearest = NEAREST.get(scheduler_class, "ddim")
    log.warning("the model's own %s is not available; using the nearest solver, %s", scheduler_class, nearest)
    return nearest
