"""The parts of the models that run on the device: what a backend runs, and what an export writes.

Each is a module of flat tensors, so that every tracer takes it: no dictionaries, no random numbers, no strings.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers.models.upsampling import Upsample2D
from torch.nn.functional import interpolate, normalize

from discl.engine.pretrained import DiffusionModel

if TYPE_CHECKING:
    from discl.engine.clip_checkpoint import ClipCheckpoint

Row = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """One part of one model.

    name: "unet", "vae_encoder", "vae_decoder", "clip_image" or "clip_text". module: tensors in, tensors out; all have
    the batch first. digest: of the model that it is of. inputs, outputs: the tensors' names. row: one row's inputs,
    without the batch, for an image of (width, height) pixels. sized: whether these depend on the size.
    """

    name: str
    module: torch.nn.Module
    digest: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    row: Callable[[int, int], Row]
    sized: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.module.parameters()).dtype


class Unet(torch.nn.Module):
    """sample [B, C, h, w], timestep [B], states [B, n, d], then what `extra` names -> [B, C, h, w]."""

    def __init__(self, unet: torch.nn.Module, extra: Sequence[str] = ()):
        super().__init__()
        self.unet, self.extra = unet, extra

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, *extra: torch.Tensor
    ) -> torch.Tensor:
        given = dict(zip(self.extra, extra, strict=True))
        guidance = given.pop("timestep_cond", None)
        return self.unet(
            sample.to(self.unet.dtype),
            timestep,
            encoder_hidden_states=states,
            timestep_cond=guidance,
            added_cond_kwargs=given or None,
            return_dict=False,
        )[0]


class VaeEncoder(torch.nn.Module):
    """pixels [B, 3, H, W] in [-1, 1] -> mean and standard deviation of the posterior, float32 [B, C, h, w]."""

    def __init__(self, vae: torch.nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()


class VaeDecoder(torch.nn.Module):
    """latent [B, C, h, w] in the VAE's own scale -> image [B, 3, H, W] around [-1, 1]."""

    def __init__(self, vae: torch.nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latent, return_dict=False)[0]


class ClipImage(torch.nn.Module):
    """pixels [B, 3, S, S] as the tower wants them -> embedding float32 [B, D], normalised."""

    def __init__(self, clip: torch.nn.Module):
        super().__init__()
        self.clip = clip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalize(self.clip.encode_image(pixels).float(), dim=-1)


class ClipText(torch.nn.Module):
    """tokens int64 [B, n] -> embedding float32 [B, D], normalised."""

    def __init__(self, clip: torch.nn.Module):
        super().__init__()
        self.clip = clip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return normalize(self.clip.encode_text(tokens).float(), dim=-1)


def unet_part(model: DiffusionModel) -> Part:
    config = model.unet.config
    extra = ("text_embeds", "time_ids") if config.addition_embed_type == "text_time" else ()
    extra += ("timestep_cond",) if model.embeds_guidance else ()

    def row(width: int, height: int) -> Row:
        condition = model.condition(model.encode_text("", False), height, width, 1.0, False)
        latent = torch.zeros(_latent(model, width, height), dtype=model.dtype)
        return (latent, torch.tensor(0.0, dtype=torch.float32), *(part.cpu() for part in condition if part is not None))

    inputs = ("sample", "timestep", "encoder_hidden_states", *extra)
    return Part("unet", Unet(model.unet, extra), model.digest, inputs, ("out_sample",), row)


def vae_encoder_part(model: DiffusionModel) -> Part:
    row = lambda width, height: (torch.zeros(3, height, width, dtype=model.vae.dtype),)  # noqa: E731
    return Part(
        "vae_encoder", VaeEncoder(model.vae), model.digest, ("pixels",), ("posterior_mean", "posterior_std"), row
    )


def vae_decoder_part(model: DiffusionModel) -> Part:
    row = lambda width, height: (torch.zeros(_latent(model, width, height), dtype=model.vae.dtype),)  # noqa: E731
    return Part("vae_decoder", VaeDecoder(model.vae), model.digest, ("latent",), ("image",), row)


def clip_image_part(clip: "ClipCheckpoint") -> Part:
    size = clip.preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    dtype = next(clip.model.parameters()).dtype
    row = lambda *_: (torch.zeros(3, height, width, dtype=dtype),)  # noqa: E731
    return Part("clip_image", ClipImage(clip.model), clip.digest, ("pixels",), ("image_embedding",), row, sized=False)


def clip_text_part(clip: "ClipCheckpoint") -> Part:
    row = lambda *_: (clip.tokenize(["a"])[0],)  # noqa: E731
    return Part("clip_text", ClipText(clip.model), clip.digest, ("tokens",), ("text_embedding",), row, sized=False)


def model_parts(model: DiffusionModel) -> list[Part]:
    return [unet_part(model), vae_encoder_part(model), vae_decoder_part(model)]


def clip_parts(clip: "ClipCheckpoint") -> list[Part]:
    return [clip_image_part(clip), clip_text_part(clip)]


def any_batch(part: Part) -> tuple:
    """torch.export's `dynamic_shapes` for a part: the first dimension of every input is the batch."""
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    named = [
        one for one in inspect.signature(part.module.forward).parameters.values() if one.kind != one.VAR_POSITIONAL
    ]
    rest = (batch,) * (len(part.inputs) - len(named))  # the UNet takes these as one tuple
    return (batch,) * len(named) + ((rest,) if rest else ())


class AnyBatchUpsample(Upsample2D):
    """diffusers' own asks for the number of rows (an old torch failed from 64 on), and a graph for any batch cannot."""

    def forward(self, hidden_states: torch.Tensor, output_size=None, *args, **kwargs) -> torch.Tensor:
        size = {"scale_factor": 2.0} if output_size is None else {"size": output_size}
        return self.conv(interpolate(hidden_states, mode="nearest", **size))


def make_traceable(module: torch.nn.Module) -> None:
    """Exchange the layers, in place, that keep a tracer from taking any number of rows."""
    for layer in module.modules():
        plain = type(layer) is Upsample2D and layer.norm is None and layer.use_conv and not layer.use_conv_transpose
        if plain and layer.interpolate and layer.name == "conv":
            layer.__class__ = AnyBatchUpsample


def _latent(model: DiffusionModel, width: int, height: int) -> tuple[int, int, int]:
    return model.latent_channels, height // model.multiple, width // model.multiple
