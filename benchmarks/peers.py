"""What the engine is measured against: diffusers as its users call it, and a bare loop as the ceiling.

Every peer loads the same folder in the same dtype and makes the same images from the same seeds in the same steps.
"""

import copy
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoPipelineForImage2Image

from benchmarks.workload import Workload
from discl import Engine, Request
from discl.engine.compiled import OPTIONS

BATCHES = (1, 2, 4, 8, 16, 32, 64)
BARE_BATCHES = (4, 16, 32, 64)
torch._dynamo.config.recompile_limit = 64  # every peer compiles the same network at its own shapes


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Diffusers:
    """Diffusers' img2img pipeline over requests; `batch` rows of one level at a time.

    compile_mode: UNet and VAE's decoder through torch.compile in this mode (on a CPU always its default), with
    channels_last and fused QKV; "" for eager.
    """

    folder: Path
    workload: Workload
    device: torch.device
    dtype: torch.dtype
    batch: int = 1
    compile_mode: str = ""
    pipe: object = field(init=False)

    def __post_init__(self):
        self.pipe = AutoPipelineForImage2Image.from_pretrained(self.folder, torch_dtype=self.dtype)
        self.pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        if self.compile_mode:
            mode = self.compile_mode if self.device.type == "cuda" else "default"
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
            self.pipe.fuse_qkv_projections()
            self.pipe.unet = torch.compile(self.pipe.unet, mode=mode, dynamic=False)
            self.pipe.vae.decode = torch.compile(self.pipe.vae.decode, mode=mode, dynamic=False)

    def at(self, batch: int) -> "Diffusers":
        """The same pipeline, called with other batches."""
        other = copy.copy(self)
        other.batch = batch
        return other

    def __call__(self, requests: list[Request]) -> None:
        levels = defaultdict(list)
        for request in requests:
            levels[request.level].append(request)
        for level, same in levels.items():
            for first in range(0, len(same), self.batch):
                self._make(same[first : first + self.batch], level)
        synchronize(self.device)

    def _make(self, requests: list[Request], level: int) -> None:
        steps = self.workload.steps
        missing = self.batch - len(requests) if self.compile_mode else 0  # a short batch would compile again
        requests = [*requests, *requests[:1] * missing]
        self.pipe(
            prompt=[request.prompt for request in requests],
            image=[request.rgb().resize(self.workload.size) for request in requests],
            strength=min(1.0, (steps * (100 - level) // 100 + 0.5) / steps),
            num_inference_steps=steps,
            guidance_scale=self.workload.text_guidance,
            generator=[torch.Generator("cpu").manual_seed(request.noise_seed) for request in requests],
            output_type="np",
        )


def best_batch(peer: Diffusers, requests: list[Request], largest: int) -> int:
    """The batch size with the most images a second on one level, each tried once after a warm-up."""
    level = max(request.level for request in requests)
    same = [request for request in requests if request.level == level]
    rates = {}
    for batch in (size for size in BATCHES if size <= min(largest, len(same))):
        run = peer.at(batch)
        try:
            rates[batch] = batch / _seconds(lambda run=run, batch=batch: run(same[:batch]))
        except torch.OutOfMemoryError:
            break
    return max(rates, key=rates.get)


class BareLoop:
    """The ceiling: the engine's evaluations, encodes, decodes and CLIP passes as bare calls, compiled as it does.

    Each at its own best batch, at full batches, and nothing else: no solver, noise, text, copies or checks. On a CUDA
    device, where a compilation takes minutes, the best batch is the one that is best uncompiled.
    """

    def __init__(self, engine: Engine, workload: Workload, requests: list[Request], largest: int):
        self.device, self.dtype = engine.device, engine.dtype
        model, (width, height) = engine.model, workload.size
        cells = (model.latent_channels, height // model.multiple, width // model.multiple)
        pixels = (3, cells[1] * model.multiple, cells[2] * model.multiple)
        guided = model.guided(workload.text_guidance)
        evaluations = sum(workload.steps * (100 - request.level) // 100 for request in requests) * (2 if guided else 1)
        sources = len({id(request.image) for request in requests})
        condition = self._condition(engine, requests[0], height, width, workload.text_guidance)
        self.parts = [
            self._part(model.unet, lambda rows: self._unet(rows, cells, condition), evaluations, largest),
            self._part(model.vae.decode, lambda rows: self._values(rows, cells), len(requests), largest),
            self._part(model.vae.encode, lambda rows: self._values(rows, pixels), sources, 1),
        ]
        if engine.scorer:
            tower = engine.scorer
            pixels = (3, *tower.model.visual.image_size)
            dtype = next(tower.model.parameters()).dtype  # not always the engine's
            values = lambda rows: self._values(rows, pixels, dtype)  # noqa: E731
            self.parts.append(self._part(tower.model.encode_image, values, len(requests) + sources, largest))

    @property
    def batches(self) -> list[int]:
        """Rows of a UNet call, a decode, an encode and a CLIP pass."""
        return [rows for _, rows, _ in self.parts]

    def __call__(self, requests: list[Request]) -> None:
        with torch.no_grad():
            for call, _, times in self.parts:
                for _ in range(times):
                    call()
        synchronize(self.device)

    def _part(
        self, function: Callable, inputs: Callable[[int], tuple[tuple, dict]], wanted: int, largest: int
    ) -> tuple[Callable, int, int]:
        """(call, rows of it, how often) at the batch with the most rows a second; inputs: rows -> arguments."""
        sizes = [size for size in BARE_BATCHES if size <= min(largest, wanted)] or [1]
        if self.device.type == "cuda":
            sizes = [max(sizes, key=lambda rows: self._rate(_call(function, inputs(rows)), rows))]
        calls = {rows: _call(self._compiled(function), inputs(rows)) for rows in sizes}
        best = max(calls, key=lambda rows: self._rate(calls[rows], rows))
        return calls[best], best, -(-wanted // best)

    @torch.no_grad()
    def _rate(self, call: Callable[[], object], rows: int) -> float:
        return rows / _seconds(lambda: (call(), synchronize(self.device)), repeats=5)

    def _compiled(self, function: Callable) -> Callable:
        graphs = {"triton.cudagraphs": True} if self.device.type == "cuda" else {}
        return torch.compile(function, dynamic=False, options={**OPTIONS[self.device.type], **graphs})

    def _condition(self, engine: Engine, request: Request, height: int, width: int, guidance: float):
        text = engine.model.encode_text(request.prompt, negative=False)
        return engine.model.condition(text, height, width, guidance, negative=False)

    def _unet(self, rows: int, cells: tuple[int, ...], condition) -> tuple[tuple, dict]:
        (latents,), _ = self._values(rows, cells)
        states, pooled, time_ids, guidance = (
            None if part is None else part.expand(rows, *part.shape).to(self.dtype).contiguous() for part in condition
        )
        options = {"encoder_hidden_states": states, "timestep_cond": guidance, "return_dict": False}
        options["added_cond_kwargs"] = {} if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
        return (latents, torch.full((rows,), 500.0, device=self.device)), options

    def _values(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[tuple, dict]:
        return (torch.randn(rows, *shape, device=self.device, dtype=dtype or self.dtype),), {}


def _call(function: Callable, inputs: tuple[tuple, dict]) -> Callable[[], object]:
    values, options = inputs
    return lambda: function(*values, **options)


def _seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """The fastest of `repeats` calls after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)
