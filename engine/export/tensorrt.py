"""An exported folder's ONNX files -> TensorRT engines beside them, for this machine; those that fit are kept."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from discl.engine.export.manifest import ExportedPart, Manifest
from discl.engine.tensorrt_plan import Log, batch_profile, plan_facts, read_plan, write_plan
from discl.errors import ModelError, RunFailed

log = logging.getLogger(__name__)

TIMING_CACHE = "timing.cache"
WORKSPACE = 8 << 30  # bytes that the builder may try tactics with
LEVEL = 4  # of 5; the last one doubles the time of a build for a few percent

OnEvent = Callable[[dict], None]


def build_engines(
    trt: ModuleType, folder: Path, manifest: Manifest, slots: int, device: torch.device, on_event: OnEvent
) -> None:
    """Raises ModelError for a graph that the parser refuses, RunFailed for a build that fails; finished ones stay."""
    for number, part in enumerate(manifest.parts):
        facts = plan_facts(trt, part, slots, device)
        try:
            read_plan(folder, part, facts)
        except ModelError:
            build = {"event": "build", "part": Path(part.file).stem, "done": number, "of": len(manifest.parts)}
            plan = build_plan(trt, folder, part, slots, lambda step, build=build: on_event({**build, **step}))
            write_plan(folder, part, facts, plan)
        on_event({"event": "export", "part": Path(part.file).stem, "done": number + 1, "of": len(manifest.parts)})


def build_plan(trt: ModuleType, folder: Path, part: ExportedPart, slots: int, on_step: OnEvent) -> Any:
    """One part's plan, as a buffer. The graph carries the precision: the network is strongly typed."""
    messages = Log(trt)
    builder = trt.Builder(messages.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse_from_file(str(folder / part.file)):
        errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise ModelError(f"TensorRT {trt.__version__} cannot parse {part.file}: {'; '.join(errors) or messages.last}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.builder_optimization_level = LEVEL
    config.progress_monitor = monitor = progress_monitor(trt, on_step)
    config.add_optimization_profile(optimization_profile(trt, builder, part, slots))
    use_timing_cache(config, folder / TIMING_CACHE)
    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        raise RunFailed(f"TensorRT {trt.__version__} could not build {part.file}: {messages.last}")
    save_timing_cache(config, folder / TIMING_CACHE)
    return plan


def optimization_profile(trt: ModuleType, builder: Any, part: ExportedPart, slots: int) -> Any:
    profile = builder.create_optimization_profile()
    for spec in part.inputs:
        profile.set_shape(spec.name, *(trt.Dims([rows, *spec.shape]) for rows in batch_profile(part.part, slots)))
    return profile


def use_timing_cache(config: Any, file: Path) -> None:
    """What was timed before on such a GPU; a cache that TensorRT does not take is begun anew."""
    saved = file.read_bytes() if file.is_file() else b""
    cache = None
    try:
        cache = config.create_timing_cache(saved)
    except Exception as error:  # the bindings raise what they like for bytes that are none of theirs
        log.debug("timing cache: %s", error)
    if cache is None or not config.set_timing_cache(cache, False):
        log.warning("%s is not a timing cache of this TensorRT and GPU: it is begun anew", file)
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, file: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        temporary = file.with_name(f".{file.name}")
        temporary.write_bytes(cache.serialize())
        temporary.replace(file)


def progress_monitor(trt: ModuleType, on_step: OnEvent) -> Any:
    """TensorRT's phases as events. What `on_step` raises ends the build: it is kept in `stopped`."""
    base = trt.IProgressMonitor

    class Monitor(base):
        def __init__(self):
            base.__init__(self)
            self.stopped: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                on_step({"phase": phase_name, "step": step + 1, "steps": self._steps.get(phase_name, 0)})
            except BaseException as error:  # an exception must not pass through TensorRT's own threads
                self.stopped = self.stopped or error
            return self.stopped is None

    return Monitor()
