"""Where `discl generate` spends its time: one whole run into a store, and the bottleneck's name in one line."""

from pathlib import Path

from benchmarks.workload import LEVELS, Workload
from discl import generate
from discl.config import RunConfig
from discl.run_record import earlier_runs

STAGES = {
    "UNet": ("engine.unet", "engine.start"),
    "VAE": ("engine.encode", "engine.decode"),
    "CLIP": ("engine.score", "engine.text"),
    "encode": ("image-encode",),
    "write": ("write",),
    "feed": ("engine.feed",),
}


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Share of the run's time in which each stage held up the engine's thread, or kept its device busy."""
    total = seconds["generate"]
    return {stage: sum(seconds.get(name, 0.0) for name in names) / total for stage, names in STAGES.items()}


def profile(workload: Workload, model: Path, clip: Path, folder: Path, settings: dict) -> dict[str, float]:
    """Make the workload's images from files with `generate`; prints the line and returns the shares.

    A first run warms up what is compiled and cached.
    """
    images = folder / "images" / "cat"
    images.mkdir(parents=True)
    for number, source in enumerate({id(request.image): request.image for request in workload.requests()}.values()):
        source.save(images / f"{number:04d}.png")
    for run in ("warm-up", "timed"):
        store = generate(_config(workload, model, clip, folder, run, settings))
    (record,) = earlier_runs(store.path)
    found = shares(record["seconds"])
    bottleneck = max(found, key=found.__getitem__)
    listed = ", ".join(f"{stage} {share:.0%}" for stage, share in sorted(found.items(), key=lambda item: -item[1]))
    rate = record["counts"]["planned"] / record["seconds"]["generate"]
    print(f"bottleneck: {bottleneck} ({listed}, other {1 - sum(found.values()):.0%}) at {rate:.1f} images/s")
    return found


def _config(workload: Workload, model: Path, clip: Path, folder: Path, run: str, settings: dict) -> RunConfig:
    return RunConfig.model_validate(
        {
            "data": {"kind": "imagefolder", "root": str(folder / "images")},
            "hard": {"rule": "all"},
            "model": {"path": str(model), "dtype": settings["dtype"], "backend": settings["backend"]},
            "spectrum": {
                "levels": LEVELS,
                "seeds": tuple(range(workload.seeds)),
                "steps": workload.steps,
                "text_guidance": workload.text_guidance,
                "size": workload.size,
                "size_policy": "stretch",
            },
            "score": {"clip": str(clip)},
            "engine": {"slots": settings["slots"], "device": settings["device"]},
            "store": {"path": str(folder / run)},
        }
    )
