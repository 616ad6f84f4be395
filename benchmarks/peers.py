"""What the engine is measured against: diffusers as its users call it, and a bare loop as the ceiling.

Every peer loads the same folder in the same dtype and makes the same images from the same seeds in the same steps.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoPipelineForImage2Image

from benchmarks.workload import Workload
from discl import Engine, Request

BATCHES = (1, 2, 4, 8, 16, 32, 64)
COMPILED_BATCHES = (4, 16, 32, 64)  # a compilation each
torch._dynamo.config.recompile_limit = 64  # every peer compiles the same network at its own shapes


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Diffusers:
    """Diffusers' img2img pipeline over requests; `batch` rows of one level at a time.

    compiled: UNet and VAE through torch.compile max-autotune (CUDA) or its default (CPU), channels_last, fused QKV.
    """

    folder: Path
    workload: Workload
    device: torch.device
    dtype: torch.dtype
    batch: int = 1
    compiled: bool = False
    pipe: object = field(init=False)

    def __post_init__(self):
        self.pipe = AutoPipelineForImage2Image.from_pretrained(self.folder, torch_dtype=self.dtype)
        self.pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        if self.compiled:
            mode = "max-autotune" if self.device.type == "cuda" else "default"
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
            self.pipe.fuse_qkv_projections()
            self.pipe.unet = torch.compile(self.pipe.unet, mode=mode, dynamic=False)
            self.pipe.vae.decode = torch.compile(self.pipe.vae.decode, mode=mode, dynamic=False)

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
        missing = self.batch - len(requests) if self.compiled else 0  # a short batch would compile again
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


def best_batch(make: Callable[[int], Callable[[list[Request]], None]], requests: list[Request], largest: int) -> int:
    """The batch size with the most images a second on one level, each tried once after a warm-up."""
    level = max(request.level for request in requests)
    same = [request for request in requests if request.level == level]
    rates = {}
    for batch in (size for size in BATCHES if size <= min(largest, len(same))):
        run = make(batch)
        try:
            rates[batch] = batch / _seconds(lambda run=run, batch=batch: run(same[:batch]))
        except torch.OutOfMemoryError:
            break
    return max(rates, key=rates.get)


class BareLoop:
    """The ceiling: the engine's evaluations, encodes, decodes and CLIP passes as bare compiled calls.

    Each at its own best batch, at full batches, and nothing else: no solver, noise, text, copies or checks.
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
            self._part(lambda rows: self._unet(model.unet, rows, cells, condition), evaluations, largest),
            self._part(lambda rows: self._call(model.vae.decode, rows, cells), len(requests), largest),
            self._part(lambda rows: self._call(model.vae.encode, rows, pixels), sources, 1),
        ]
        if engine.scorer:
            tower = engine.scorer
            pixels = (3, *tower.model.visual.image_size)
            dtype = next(tower.model.parameters()).dtype  # not always the engine's
            call = lambda rows: self._call(tower.model.encode_image, rows, pixels, dtype)  # noqa: E731
            self.parts.append(self._part(call, len(requests) + sources, largest))

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

    def _part(self, make: Callable[[int], Callable], rows_wanted: int, largest: int) -> tuple[Callable, int, int]:
        """(call, rows of it, how often) at the batch with the most rows a second."""
        best, rate = None, 0.0
        for rows in [size for size in COMPILED_BATCHES if size <= min(largest, rows_wanted)] or [1]:
            call = make(rows)
            with torch.no_grad():
                now = rows / _seconds(lambda call=call: (call(), synchronize(self.device)), repeats=5)
            if now > rate:
                best, rate = (call, rows), now
        return (*best, -(-rows_wanted // best[1]))

    def _condition(self, engine: Engine, request: Request, height: int, width: int, guidance: float):
        text = engine.model.encode_text(request.prompt, negative=False)
        return engine.model.condition(text, height, width, guidance, negative=False)

    def _unet(self, unet, rows: int, cells: tuple[int, ...], condition) -> Callable[[], object]:
        latents = torch.randn(rows, *cells, device=self.device, dtype=self.dtype)
        timestep = torch.full((rows,), 500.0, device=self.device)
        states, pooled, time_ids, guidance = (
            None if part is None else part.expand(rows, *part.shape).to(self.dtype).contiguous() for part in condition
        )
        added = {} if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
        forward = torch.compile(unet, dynamic=False, mode=self._mode)
        return lambda: forward(
            latents,
            timestep,
            encoder_hidden_states=states,
            timestep_cond=guidance,
            added_cond_kwargs=added,
            return_dict=False,
        )

    def _call(
        self, function: Callable, rows: int, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Callable[[], object]:
        value = torch.randn(rows, *shape, device=self.device, dtype=dtype or self.dtype)
        forward = torch.compile(function, dynamic=False, mode=self._mode)
        return lambda: forward(value)

    @property
    def _mode(self) -> str:
        return "max-autotune" if self.device.type == "cuda" else "default"


def _seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """The fastest of `repeats` calls after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)
