"""What the ladder climbs: each lever is a few lines of config over the demo's exact float32 run."""

BASE = "exact float32, eager"
LEVERS: dict[str, dict] = {
    BASE: {},
    "torch.compile": {"model.backend": "torch-compile"},
    "bfloat16": {"model.backend": "torch-compile", "model.dtype": "bfloat16"},
    "float8": {"model.dtype": "float8"},
    "guidance interval": {"spectrum.guidance_interval": [0.1, 0.7]},
    "DPM++ 2M, 12 steps": {"spectrum.solver": "dpmpp-2m", "spectrum.steps": 12},
    "few-step, DPM++ 2M, 6": {"spectrum.solver": "dpmpp-2m", "spectrum.steps": 6, "spectrum.mode": "few-step"},
    "pure noise": {"spectrum.mode": "pure-noise", "spectrum.levels": [0]},
    "early rejection, 10 %": {"engine.early_rejection": True, "engine.false_reject_limit": 0.1},
    "all together": {
        "model.backend": "torch-compile",
        "model.dtype": "bfloat16",
        "spectrum.solver": "dpmpp-2m",
        "spectrum.steps": 6,
        "spectrum.mode": "few-step",
        "engine.early_rejection": True,
        "engine.false_reject_limit": 0.1,
    },
}
