"""A UNet's matrix products in float8 (e4m3): weights scaled per output channel, activations per row as they come.

Linear layers and 1x1 convolutions inside the transformer blocks are exchanged; the others, and those that calibration
finds too coarse, stay in bfloat16. On CUDA the products run on float8 tensor cores (compute capability 8.9 and later);
a CPU computes the same quantised numbers more slowly, which is for tests.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, FusedAttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from discl.engine.denoiser import torch_denoiser
from discl.engine.noise_schedule import Trajectory
from discl.engine.pretrained import DiffusionModel
from discl.engine.reproducible import linear
from discl.engine.solvers import Solver
from discl.errors import ModelError
from discl.kernels import fp8_rows, geglu_fp8_rows

log = logging.getLogger(__name__)

E4M3 = torch.float8_e4m3fn
QKV = ("to_q", "to_k", "to_v")
KV = QKV[1:]  # of cross-attention, whose queries come from elsewhere
ALIGNED = 16  # elements: what the device's kernels want both sides of a weight to be a multiple of
CAPABILITY = (8, 9)  # Ada; Hopper is (9, 0)
# Relative RMS error of a layer's output above which it stays in bfloat16. e4m3 keeps 3 mantissa bits: for well-spread
# values two quantised factors give about 0.037 (each rounds with a relative RMS of 2^-4/sqrt(3)/sqrt(2)).
COARSEST = 0.06
LEVELS = range(0, 100, 5)
CALIBRATION_SIDE = 64  # latent cells
CALIBRATION_PROMPT, CALIBRATION_GUIDANCE = "a photo of an animal in the wild", 7.5


def check_fp8(device: torch.device) -> None:
    """ModelError where the device has no float8 products."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        raise ModelError(
            f"dtype='float8' needs a GPU of compute capability 8.9 or later (Ada, Hopper), and "
            f"{torch.cuda.get_device_name(device)} has {'.'.join(map(str, torch.cuda.get_device_capability(device)))}: "
            "use dtype='bfloat16'"
        )


class Fp8Linear(torch.nn.Module):
    """y = x W^T + b with both factors in e4m3 and sums in float32; x [..., in] and y [..., out] in bfloat16.

    weight: e4m3 [out, in]. scale: float32 [1, out]. bias: bfloat16 [out] or None.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None) -> "Fp8Linear":
        """The layer of a bfloat16 weight [out, in]."""
        values, scale = fp8_rows(weight)
        return cls(values, scale.T.contiguous(), bias)

    @classmethod
    def joined(cls, layers: "Sequence[Fp8Linear]") -> "Fp8Linear":
        """Layers of one input as one layer, their outputs side by side."""
        weight = torch.cat([layer.weight.view(torch.uint8) for layer in layers]).view(E4M3)
        bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        return cls(weight, torch.cat([layer.scale for layer in layers], 1), bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(*fp8_rows(x.flatten(0, -2))).unflatten(0, x.shape[:-1])

    def product(self, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """e4m3 [n, in] with scales float32 [n, 1] -> bfloat16 [n, out]."""
        if values.is_cuda:
            # Fast accumulation, as is common in inference: calibration measures what it costs in precision.
            options = {"bias": self.bias, "out_dtype": torch.bfloat16, "use_fast_accum": True}
            return torch._scaled_mm(values, self.weight.T, scale, self.scale, **options)
        out = linear(values.float(), self.weight.float(), None) * scale * self.scale  # not every torch scales rows here
        return (out if self.bias is None else out + self.bias).bfloat16()


class Fp8Pointwise(Fp8Linear):
    """A 1x1 convolution as the same product over channels; x [B, in, h, w]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Fp8Gated(Fp8Linear):
    """The product that follows a GEGLU, which is quantised as it is made; x [B, n, 2 in], hidden and gate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda or torch.compiler.is_compiling():
            values, scale = geglu_fp8_rows(x.flatten(0, 1))
        else:  # sample by sample: the last bits of a CPU's erf depend on the place in its loop
            values, scale = map(torch.cat, zip(*map(geglu_fp8_rows, x), strict=True))
        return self.product(values, scale).unflatten(0, x.shape[:2])


class Ungated(GEGLU):
    """The projection of a GEGLU alone, before `Fp8Gated`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


def fp8_layer(layer: torch.nn.Module) -> Fp8Linear | None:
    """The float8 twin of a layer, or None where it has none."""
    if isinstance(layer, torch.nn.Linear):
        kind, weight = Fp8Linear, layer.weight
    elif isinstance(layer, torch.nn.Conv2d) and _pointwise(layer):
        kind, weight = Fp8Pointwise, layer.weight.flatten(1)
    else:
        return None
    return None if weight.shape[0] % ALIGNED or weight.shape[1] % ALIGNED else kind.of(weight, layer.bias)


def quantize(model: DiffusionModel, solver: Solver) -> dict[str, float]:
    """Put a bfloat16 model's UNet into float8; returns the relative error of every candidate layer by name.

    Calibrated where img2img starts at every twentieth of the levels, on latents with a picture's spectrum.
    """
    levels = [0] if solver.mode == "pure-noise" else [level for level in LEVELS if solver.steps * (100 - level) >= 100]
    side = min(model.unet.config.sample_size, CALIBRATION_SIDE)
    text = model.encode_text(CALIBRATION_PROMPT, negative=False)
    pixels = side * model.multiple
    condition = model.condition(text, pixels, pixels, CALIBRATION_GUIDANCE, negative=False)
    batch = condition.zeros(1)
    batch.put(0, condition)
    denoise = torch_denoiser(model)

    def calibrate() -> None:
        shape = (model.latent_channels, side, side)
        for latent, timestep in start_inputs(map(solver.trajectory, levels), shape):
            latent = latent.to(model.device)
            denoise(latent, torch.full((1,), timestep, dtype=torch.float32, device=latent.device), batch)

    with torch.no_grad():
        return to_fp8(model.unet, calibrate)


def to_fp8(unet: torch.nn.Module, calibrate: Callable[[], Any]) -> dict[str, float]:
    """Exchange the layers of a bfloat16 UNet in place; returns the relative error of every candidate by name.

    calibrate: runs the UNet on typical inputs. Its forward passes are watched, and a layer whose float8 twin is off by
    more than `COARSEST` on them stays as it is.
    """
    errors = measured(unet, candidates(unet), calibrate)
    for name, error in errors.items():
        if error <= COARSEST:
            parent, _, child = name.rpartition(".")
            layer = fp8_layer(unet.get_submodule(name))
            setattr(unet.get_submodule(parent), child, layer)
    fuse(unet)
    kept = [name for name, error in errors.items() if not error <= COARSEST]
    log.info("float8: %d of %d layers; in bfloat16 stay %s", len(errors) - len(kept), len(errors), kept or "none")
    return errors


def fuse(unet: torch.nn.Module) -> None:
    """Float8 layers of one input become one, and a GEGLU is quantised as it is made, in place.

    No quantised number changes but for a GEGLU's, which is no longer rounded to bfloat16 in between.
    """
    for module in list(unet.modules()):
        if isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0:
            _join_projections(module)
        elif isinstance(module, FeedForward) and type(module.net[2]) is Fp8Linear:
            gate = module.net[0]
            if isinstance(gate, GEGLU):
                gate.__class__, module.net[2].__class__ = Ungated, Fp8Gated


def _join_projections(attention: Attention) -> None:
    """As diffusers' own `fuse_projections` does with layers that are not quantised."""
    whole, names = ("to_kv", KV) if attention.is_cross_attention else ("to_qkv", QKV)
    layers = [attention.get_submodule(name) for name in names]
    if all(type(layer) is Fp8Linear for layer in layers):
        attention.add_module(whole, Fp8Linear.joined(layers))
        for name in names:
            delattr(attention, name)
        attention.set_processor(FusedAttnProcessor2_0())


def candidates(unet: torch.nn.Module) -> dict[str, Fp8Linear]:
    """Every layer inside a transformer block that has a float8 twin, by name."""
    blocks = [name for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)]
    inside = (
        (f"{block}.{name}", layer) for block in blocks for name, layer in unet.get_submodule(block).named_modules()
    )
    twins = ((name, fp8_layer(layer)) for name, layer in inside)
    return {name: twin for name, twin in twins if twin is not None}


def measured(unet: torch.nn.Module, twins: dict[str, Fp8Linear], calibrate: Callable[[], Any]) -> dict[str, float]:
    """Relative RMS error of each twin's output on what its layer sees while `calibrate` runs; infinite if unseen."""
    sums = {name: [0.0, 0.0] for name in twins}

    def watch(name: str) -> Callable:
        def hook(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            off = twins[name](inputs[0]).float() - output.float()
            sums[name][0] += off.square().sum().item()
            sums[name][1] += output.float().square().sum().item()

        return hook

    hooks = [unet.get_submodule(name).register_forward_hook(watch(name)) for name in twins]
    try:
        calibrate()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (error / size) ** 0.5 if size else float("inf") for name, (error, size) in sums.items()}


def calibration_latents(count: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Clean latents [count, C, h, w] with a picture's spectrum (amplitude 1/f, unit variance), always the same ones.

    Calibration decides what is quantised and so shapes pixels: it must be a function of the model alone.
    """
    rng = torch.Generator().manual_seed(0)
    white = torch.fft.rfft2(torch.randn(count, *shape, generator=rng, dtype=torch.float32))
    rows = torch.fft.fftfreq(shape[1], dtype=torch.float32)[:, None]
    columns = torch.fft.rfftfreq(shape[2], dtype=torch.float32)[None]
    frequency = (rows**2 + columns**2).sqrt().clamp(min=1 / max(shape[1:]))
    latents = torch.fft.irfft2(white / frequency, s=shape[1:])
    return latents / latents.std(dim=(2, 3), keepdim=True)


def start_inputs(
    trajectories: Iterable[Trajectory], shape: tuple[int, int, int]
) -> Iterator[tuple[torch.Tensor, float]]:
    """(network input [1, C, h, w], timestep) where img2img starts on each trajectory."""
    trajectories = list(trajectories)
    clean = calibration_latents(len(trajectories), shape)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    for trajectory, latent, draw in zip(trajectories, clean.split(1), noise.split(1), strict=True):
        timestep, scale = trajectory.rows[0, :2].tolist()
        yield scale * (trajectory.signal * latent + trajectory.sigma * draw), timestep


def _pointwise(layer: torch.nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1
