"""Early rejection: requests that CLIP will reject are recognised part-way, and their places freed.

previews    (beside this room) asks for verdicts while the engine runs
decoder     x0 -> a small image                  evidence     previews -> feature columns
logistic    feature columns -> log-odds          bound        how low a bound must lie for how many samples
rule        checks and bounds, as a JSON file    judges       what the engine asks: tracers and the judge
traces      recorded previews                    calibration  traces -> rule
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {
    "Judge": "discl.engine.rejection.judges",
    "LatentTracer": "discl.engine.rejection.judges",
    "Tracer": "discl.engine.rejection.judges",
    "Rule": "discl.engine.rejection.rule",
}

__all__ = ["Judge", "LatentTracer", "Rule", "Tracer"]

if TYPE_CHECKING:
    from discl.engine.rejection.judges import Judge, LatentTracer, Tracer
    from discl.engine.rejection.rule import Rule


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'discl.engine.rejection' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
