"""Requests -> samples: the engine's face. It owns the model and what outlives a run; `loop` is the run itself."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import torch

from discl.engine.backends import BACKENDS, EXPORTED, Backend, open_backend
from discl.engine.backends.torch import TorchBackend
from discl.engine.compile_cache import CompileCache, open_cache
from discl.engine.faults import Capacity
from discl.engine.finish import Finisher
from discl.engine.fp8 import check_fp8, quantize
from discl.engine.loop import Loop
from discl.engine.networks import SCORE_BATCH, Networks
from discl.engine.options import (
    DTYPES,
    check_interval,
    check_names,
    check_slots,
    check_text,
    check_whole,
    find_device,
    refuse_unknown,
    warn_if_slow,
)
from discl.engine.pretrained import DiffusionModel, load_model
from discl.engine.previews import Previews, Rejection, no_checks
from discl.engine.rejection.rule import Rule
from discl.engine.reproducible import stable_rows
from discl.engine.request import Request, Sample, check_guidance, whole_pixels
from discl.engine.slot_count import choose_slots
from discl.engine.slots import Slots
from discl.engine.solvers import MODES, SOLVERS, build_solver
from discl.engine.stats import Stats
from discl.engine.work import Bucket, Preparation
from discl.errors import DisclError

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer


class Engine:
    """Batched multi-guidance img2img. A sample depends on its request alone, whatever shares the batch.

    Use `Engine.from_pretrained`, as a context manager. One `run` at a time; `stats` accumulates over the engine's life.
    """

    def __init__(
        self,
        model: DiffusionModel,
        scorer: "Scorer | None",
        *,
        device: torch.device,
        slots: int,
        backend: Backend | None = None,
        solver: str = "auto",
        mode: str = "exact",
        steps: int = 50,
        text_guidance: float = 7.5,
        guidance_interval: tuple[float, float] | None = None,
        score_prompt: str | None = None,
        rejection: Rejection | None = None,
        cache: CompileCache | None = None,
    ):
        self.model, self.scorer, self.device, self.dtype = model, scorer, device, model.dtype
        self.slots, self.steps, self.text_guidance, self.score_prompt = slots, steps, text_guidance, score_prompt
        self.guidance_interval, self.rejection = guidance_interval, None
        self.solver = build_solver(solver, model.scheduler_class, model.scheduler_config, steps, mode)
        self.stats = Stats(device_clock=device.type == "cuda")
        self.preparation = Preparation(
            self.networks,
            self.solver,
            self.stats,
            device,
            text_guidance,
            guidance_interval,
            model.scheduler_config.get("num_train_timesteps", 1000),
            no_checks,
            self.judged,
        )
        self._torch = TorchBackend(device)
        self._backend, self._cache = backend or self._torch, cache
        self._capacity = Capacity(slots)
        self._networks: dict[torch.dtype, Networks] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._running = False
        self.reject_by(rejection)

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        clip: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        slots: int | str = "auto",
        backend: str = "torch",
        exported: str | None = None,
        solver: str = "auto",
        mode: str = "exact",
        steps: int = 50,
        text_guidance: float = 7.5,
        score_prompt: str | None = None,
        rejection: "str | PathLike | Rejection | None" = None,
        guidance_interval: tuple[float, float] | None = None,
        loras: Sequence[str] = (),
        embeddings: Sequence[str] = (),
        cache: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> "Engine":
        """Load a diffusers folder, `hub:` id or checkpoint file and, with `clip`, an open_clip scorer.

        loras, embeddings: what is merged into the model, see `load_model`. solver: "auto" (the model's own, or the
        nearest with a message), "ddim", "euler", "euler-ancestral", "dpmpp-2m" or "lcm". mode: "exact", "few-step" or
        "pure-noise", see `discl.engine.solvers.Solver`.
        dtype: "float32", "bfloat16", "float16" or "float8" (the UNet's transformer blocks, see `discl.engine.fp8`).
        backend: "torch" (eager), "torch-compile", or what runs the files that `discl export` wrote to the folder
        `exported`: "onnx", "aoti" or "tensorrt". text_guidance: library scale g (the paper's w is g-1); at most 1
        means no guidance. guidance_interval: (low, high) in shares of the training timesteps; guidance only where
        low <= t/T < high (Kynkäänniemi et al. 2024), None for everywhere. rejection: a calibrated rule's file (see
        `discl.engine.rejection`), None for no early rejection. cache: a folder or fsspec URL that keeps compiled code
        for the next process; it will be executed, so the place must be trusted. slots: requests that share a batch;
        "auto" takes the fewest that keep the device busy at `size` (width, height; None: the model's own), by a profile
        of seconds that is kept in `cache` or the user's cache folder. Raises ModelError for what cannot be
        loaded and DisclError for options this version does not have.
        """
        refuse_unknown(
            dtype=(dtype, DTYPES), backend=(backend, BACKENDS), solver=(solver, ("auto", *SOLVERS)), mode=(mode, MODES)
        )
        check_names(path, clip=clip, exported=exported, cache=cache)
        check_text(score_prompt=score_prompt)
        _check_numbers(slots, steps, text_guidance, guidance_interval)
        size, rule = whole_pixels(size), _rule(rejection, clip)
        chosen = _device(device, dtype)
        model = load_model(path, chosen, DTYPES[dtype], loras, embeddings)
        code = open_cache(cache, model, chosen) if cache and backend == "torch-compile" else None
        runs = open_backend(backend, chosen, exported)
        if slots == "auto":
            slots = runs.slots or choose_slots(model, chosen, size, text_guidance, cache)
        _check_fits(slots, runs, exported)
        engine = cls(
            model,
            _scorer(clip, chosen, runs) if clip else None,
            device=chosen,
            slots=slots,
            backend=runs,
            solver=solver,
            mode=mode,
            steps=steps,
            text_guidance=text_guidance,
            guidance_interval=guidance_interval,
            score_prompt=score_prompt,
            rejection=None if rule else rejection,
            cache=code,
        )
        if dtype == "float8":
            quantize(model, engine.solver)
        if backend in EXPORTED:
            engine.networks()  # what does not fit the model is refused now
        if rule:
            engine.reject_by(engine.judge(rule))
        return engine

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was cached; the engine can run again and makes it anew."""
        self._networks.clear()

    def run(self, requests: Iterable[Request | None]) -> Iterator[Sample]:
        """Yield samples as they finish. `requests` may be endless; about 4 times `slots` of it are read ahead.

        It may give None for "nothing now" while samples are under way, and so ask for more by what has come out: the
        engine goes on with what it holds and asks again. Raises DisclError for a None when nothing is under way;
        RunFailed when not even one slot fits the memory, or when the device is lost.
        """
        if self._running:
            raise DisclError(
                "this engine is already running: finish or close the first run's iterator, or use a second engine"
            )
        self._running = True
        try:
            with closing(iter(self._loop(requests))) as samples:
                for sample in samples:
                    self._keep_code()
                    yield sample
        finally:
            self._running = False
            self._keep_code()

    def reject_by(self, rejection: Rejection | None) -> None:
        """What early rejection asks from the next run on; None for none."""
        if self._running:
            raise DisclError("this engine is running: end its run before its early rejection is changed")
        self.rejection = rejection
        self.preparation = replace(self.preparation, checks=rejection.checks if rejection else no_checks)

    def judge(self, rule: Rule) -> Rejection:
        """A rule's judge. Raises DisclError for a rule that was calibrated for another model, scorer or trajectory."""
        from discl.engine.rejection.judges import Judge

        differing = sorted(name for name, value in self.signature.items() if rule.made_for.get(name) != value)
        if differing:
            given, here = ({name: values.get(name) for name in differing} for values in (rule.made_for, self.signature))
            raise DisclError(f"this rule for early rejection is for {given}, the engine has {here}: calibrate another")
        return Judge(rule, self.scorer)

    @property
    def signature(self) -> dict[str, Any]:
        """What decides whether a rule for early rejection fits, as JSON."""
        return {
            "model": self.model.digest,
            "scorer": self.scorer.digest if self.scorer else None,
            "solver": self.solver.name,
            "mode": self.solver.mode,
            "steps": self.steps,
            "text_guidance": self.text_guidance,
            "guidance_interval": list(self.guidance_interval) if self.guidance_interval else None,
        }

    @property
    def guided(self) -> bool:
        """Whether text guidance takes an unconditional network row beside the conditional one."""
        return self.model.guided(self.text_guidance)

    def networks(self, dtype: torch.dtype | None = None) -> Networks:
        """The model's rooms in a dtype, its own by default; another one is loaded when it is first asked for."""
        dtype = dtype or self.dtype
        if dtype not in self._networks:
            model = self.model if dtype == self.dtype else self.model.reloaded(dtype)
            self._networks[dtype] = Networks(
                model,
                self.scorer,
                self.device,
                backend=self._backend if dtype == self.dtype else self._torch,  # few samples come again in another
                slots=self._capacity.slots,
                latents=self.solver.mode != "pure-noise",
                stream=self._stream,
            )
        return self._networks[dtype]

    def _loop(self, requests: Iterable[Request | None]) -> Loop:
        finisher = Finisher(self.networks, self.scorer, self.judged, self.stats, self._capacity, self._stream)
        return Loop(
            requests,
            self.preparation,
            finisher,
            self._make_previews(),
            self._capacity,
            self.stats,
            self.dtype,
            make_slots=self._make_slots,
            shape=self._shape,
            resize=self._resize,
        )

    def _make_previews(self) -> Previews | None:
        if self.rejection is None or self.scorer is None:
            return None
        return Previews(self.rejection, self.networks, self.scorer, self.stats, self._stream)

    def _shape(self, bucket: Bucket) -> tuple[int, int]:
        """A bucket's network rows, and the places of requests that take turns on them."""
        copies = 2 if bucket.guided else 1
        slots = stable_rows(self._capacity.slots, copies)
        return copies * slots, 2 * slots

    def _make_slots(self, bucket: Bucket) -> Slots:
        networks = self.networks(bucket.dtype)
        rows, places = self._shape(bucket)
        return Slots(
            places,
            rows,
            rows // 2 if bucket.guided and self.guidance_interval is None else rows,
            networks.latent_shape(bucket.height, bucket.width),
            self.steps,
            networks.denoise,
            self.device,
            paired=bucket.guided,
            history=self.solver.uses_history,
            draws=self.solver.draws_noise,
            gaps=self.rejection is not None,
        )

    def _keep_code(self) -> None:
        if self._cache:
            self._cache.save()

    def _resize(self) -> None:
        for networks in self._networks.values():
            networks.resize(self._capacity.slots)

    def judged(self, request: Request) -> str:
        """What a request's image is scored against: score_text, else score_prompt with the class name, else prompt."""
        if request.score_text is not None:
            return request.score_text
        if self.score_prompt is not None:
            return self.score_prompt.replace("{class}", request.class_name or "")
        return request.prompt


def _check_numbers(
    slots: int | str, steps: int, text_guidance: float, guidance_interval: tuple[float, float] | None
) -> None:
    check_slots(slots)
    check_whole(steps=(steps, 1, 1000))
    check_interval(guidance_interval)
    check_guidance(text_guidance)


def _device(name: str, dtype: str) -> torch.device:
    """The device that is meant; refused where it cannot compute in `dtype`, with a warning where it is slow at it."""
    device = find_device(name)
    if dtype == "float8":
        check_fp8(device)
    warn_if_slow(device, DTYPES[dtype])
    return device


def _check_fits(slots: int, backend: Backend, exported: str | None) -> None:
    if backend.slots and slots > backend.slots:
        raise DisclError(
            f"slots={slots}: {exported} was exported for {backend.slots}; export again with --slots {slots}"
        )


def _rule(rejection: "str | PathLike | Rejection | None", clip: str | None) -> Rule | None:
    """The rule in a file; None for no early rejection, or for one that is given as an object."""
    rule = Rule.load(rejection) if isinstance(rejection, str | PathLike) else None
    if rejection is not None and rule is None and not hasattr(rejection, "checks"):
        raise DisclError(f"rejection={rejection!r}: give the file of a rule for early rejection, or None")
    if rejection is not None and not clip:
        raise DisclError("early rejection predicts CLIP scores: give clip as well, or rejection=None")
    return rule


def _scorer(clip: str, device: torch.device, backend: Backend) -> "Scorer":
    from discl.engine.scorer import Scorer  # open_clip takes seconds to import

    return Scorer.from_pretrained(fspath(clip), device=device, batch=SCORE_BATCH, backend=backend)
