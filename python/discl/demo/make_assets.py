"""Rendered digits in, the demo's two model folders out: `python -m discl.demo.make_assets OUT`.

OUT/generator is a Stable Diffusion 1.x folder (32x32 pixels, 8x8 latents), OUT/clip an open_clip folder. Both
learn from digits drawn with type faces and from captions, never from handwriting. All follows from SEED.
"""

import argparse
import copy
import json
import logging
from pathlib import Path

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from discl.atomic import write_atomic
from discl.demo.captions import CAPTIONS, TEXT_TOKENS, make_tokenizer, tokenize
from discl.demo.rendering import CLASS_NAMES, corpus, upscale

log = logging.getLogger(__name__)

SEED = 2024
PIXELS = 32
CORPUS = 20_000
STEPS = {"autoencoder": 900, "denoiser": 2500, "clip": 1000}


class Corpus:
    """Rendered digits and their captions.

    images: float32 [n, 3, 32, 32] in [-1, 1]; labels: int64 [n].
    """

    def __init__(self, count: int = CORPUS, seed: int = SEED):
        digits, labels = corpus(count, seed)
        pixels = torch.from_numpy(upscale(digits, PIXELS))
        self.images = (pixels.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
        self.labels = torch.from_numpy(labels)

    def batch(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        """Draw row numbers, int64 [size]."""
        return torch.from_numpy(rng.integers(len(self.labels), size=size))

    def captions(self, rows: torch.Tensor, rng: np.random.Generator, empty_share: float = 0.0) -> list[str]:
        """Word a caption for each row; a share of them is left empty, for classifier-free guidance."""
        texts = [CAPTIONS[rng.integers(len(CAPTIONS))].format(CLASS_NAMES[self.labels[row]]) for row in rows]
        return ["" if rng.random() < empty_share else text for text in texts]


# ---- autoencoder ----


def train_autoencoder(data: Corpus, steps: int) -> tuple[AutoencoderKL, list[float]]:
    """Fit an autoencoder to the images; set its scaling factor so that latents have unit variance."""
    rng = seeded(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PIXELS,
        mid_block_add_attention=False,
    )

    def loss() -> torch.Tensor:
        images = data.images[data.batch(32, rng)]
        posterior = vae.encode(images).latent_dist
        error = F.mse_loss(vae.decode(posterior.sample()).sample, images)
        return error + 1e-5 * posterior.kl().mean() / (3 * PIXELS)

    losses = fit("autoencoder", vae.parameters(), loss, steps, lr=2e-3)
    vae.requires_grad_(False).eval()
    vae.register_to_config(scaling_factor=round(float(1 / encode(vae, data.images[:2000]).std()), 5))
    return vae, losses


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode images [n, 3, 32, 32] to unscaled mean latents [n, 4, 8, 8]."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in images.split(250)])


# ---- denoiser and text encoder ----


def make_denoiser() -> UNet2DConditionModel:
    """1.2 M parameters; attention, to itself and to the text, at 4x4 only, which is what makes it cheap."""
    return UNet2DConditionModel(
        sample_size=PIXELS // 4,
        block_out_channels=(48, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """0.1 M parameters: it only has to tell a few dozen words apart."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def train_denoiser(
    data: Corpus, vae: AutoencoderKL, tokenizer: CLIPTokenizer, steps: int
) -> tuple[UNet2DConditionModel, CLIPTextModel, DDIMScheduler, list[float]]:
    """Train UNet and text encoder together to predict noise; returns their moving averages."""
    rng = seeded(1)
    unet, text_encoder = make_denoiser(), make_text_encoder(tokenizer)
    both = torch.nn.ModuleList([unet, text_encoder])
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    latents = encode(vae, data.images) * vae.config.scaling_factor

    def loss() -> torch.Tensor:
        rows = data.batch(64, rng)
        clean, noise = latents[rows], torch.randn(64, *latents.shape[1:])
        times = torch.randint(0, scheduler.config.num_train_timesteps, (64,))
        texts = data.captions(rows, rng, empty_share=0.15)
        condition = text_encoder(tokenize(tokenizer, texts))[0]
        return F.mse_loss(unet(scheduler.add_noise(clean, noise, times), times, condition).sample, noise)

    average = copy.deepcopy(both).requires_grad_(False)
    losses = fit("denoiser", both.parameters(), loss, steps, lr=1e-3, after=lambda step: follow(average, both, step))
    return average[0].eval(), average[1].eval(), scheduler, losses


@torch.no_grad()
def follow(average: torch.nn.Module, model: torch.nn.Module, step: int, decay: float = 0.998) -> None:
    """Move the averaged weights towards the model's; faster at first, when there is little to average."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, weight)


# ---- CLIP ----

CLIP_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": PIXELS, "layers": 3, "width": 64, "head_width": 32, "patch_size": 4},
    "text_cfg": {"context_length": TEXT_TOKENS, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CLIP_SCALE = 8.0  # small and fixed: cosines must spread to tell classes apart, so that a threshold can cut
CLIP_PIXELS = {
    "mean": [0.3, 0.3, 0.3],
    "std": [0.35, 0.35, 0.35],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def train_clip(data: Corpus, steps: int) -> tuple[torch.nn.Module, list[float]]:
    """Train image and text tower against each other; captions of one class count as equally right."""
    rng = seeded(2)
    model = open_clip.CLIP(**CLIP_CONFIG, init_logit_scale=np.log(CLIP_SCALE))
    model.logit_scale.requires_grad_(False)
    read = open_clip.SimpleTokenizer(context_length=TEXT_TOKENS)
    mean, std = (torch.tensor(CLIP_PIXELS[key])[:, None, None] for key in ("mean", "std"))

    def loss() -> torch.Tensor:
        rows = data.batch(128, rng)
        labels = data.labels[rows]
        pictures = ((data.images[rows] + 1) / 2 - mean) / std
        image, text, scale = model(pictures, read(data.captions(rows, rng)))
        same = (labels[:, None] == labels).float()
        target, logits = same / same.sum(1, keepdim=True), scale * image @ text.T
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    trained = (value for value in model.parameters() if value.requires_grad)
    losses = fit("clip", trained, loss, steps, lr=1e-3)
    return model.eval(), losses


# ---- the one training loop, saving, command line ----


def seeded(part: int) -> np.random.Generator:
    """Seed torch for one part of the training; returns the generator that draws its batches."""
    torch.manual_seed(SEED + part)
    return np.random.default_rng([SEED, part])


def fit(name: str, parameters, loss, steps: int, lr: float, after=lambda step: None) -> list[float]:
    """Minimise `loss()` with AdamW, warm-up and cosine decay; returns the loss of every step."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-4, fused=True)
    warm = min(100, max(1, steps // 10))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.02 + 0.98 * (1 + np.cos(np.pi * s / steps)) / 2)
    )
    losses = []
    for step in range(steps):
        value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        after(step)
        losses.append(value.item())
        if (step + 1) % 250 == 0:
            log.info("%s: step %d of %d, loss %.4f", name, step + 1, steps, np.mean(losses[-250:]))
    return losses


def make_generator(out: Path, data: Corpus, autoencoder_steps: int, denoiser_steps: int) -> dict[str, list[float]]:
    """Train and write the Stable Diffusion folder `out`; returns the losses by part."""
    tokenizer = make_tokenizer(out / "tokenizer")
    vae, vae_losses = train_autoencoder(data, autoencoder_steps)
    unet, text_encoder, scheduler, losses = train_denoiser(data, vae, tokenizer, denoiser_steps)
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    load_as_float32(out / "text_encoder" / "config.json")
    return {"autoencoder": vae_losses, "denoiser": losses}


def load_as_float32(config: Path) -> None:
    """transformers loads weights in the dtype that the config names; diffusers always in float32."""
    settings = json.loads(config.read_text()) | {"dtype": "float32"}
    write_atomic(config, json.dumps(settings, indent=2).encode())


def make_clip(out: Path, data: Corpus, steps: int) -> list[float]:
    """Train and write the open_clip folder `out`; returns the losses."""
    model, losses = train_clip(data, steps)
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": CLIP_PIXELS}
    write_atomic(out / "open_clip_config.json", json.dumps(config, indent=2).encode())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, nargs=3, default=list(STEPS.values()), metavar=tuple(STEPS))
    parser.add_argument("--corpus", type=int, default=CORPUS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # sums do not depend on the number of cores, and the nets are too small for more
    data = Corpus(arguments.corpus)
    make_generator(arguments.out / "generator", data, *arguments.steps[:2])
    make_clip(arguments.out / "clip", data, arguments.steps[2])


if __name__ == "__main__":
    main()
