"""The script that made the demo's models: its rendered corpus, a few steps of each training, what ships."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from discl.demo import captions, make_assets, rendering

ASSETS = Path(make_assets.__file__).parent / "assets"
DIGIT_PROMPTS = [f"a photo of the digit {name}" for name in rendering.CLASS_NAMES]


@pytest.fixture(scope="module")
def data():
    return make_assets.Corpus(count=400)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Both folders after a few steps, and the losses."""
    out = tmp_path_factory.mktemp("assets")
    losses = make_assets.make_generator(out / "generator", data, autoencoder_steps=16, denoiser_steps=16)
    losses["clip"] = make_assets.make_clip(out / "clip", data, steps=16)
    return out, losses


def load_pipeline(folder):
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_clip(folder):
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    assert model.logit_scale.dtype == torch.float32
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


@torch.no_grad()
def zero_shot(clip, images, prompts):
    """Most similar prompt per PIL image: int64 [n]."""
    model, preprocess, tokenizer = clip
    pictures = torch.stack([preprocess(image.convert("RGB")) for image in images])
    likeness = model.encode_image(pictures, normalize=True) @ model.encode_text(tokenizer(prompts), normalize=True).T
    return likeness.argmax(1).numpy()


# ---- rendered digits ----


def test_corpus_is_a_function_of_its_seed():
    digits, labels = rendering.corpus(40, seed=3)
    again, _ = rendering.corpus(40, seed=3)
    other, _ = rendering.corpus(40, seed=4)
    assert np.array_equal(digits, again)
    assert not np.array_equal(digits, other)
    assert np.array_equal(np.bincount(labels), [4] * 10)


def test_corpus_has_the_format_of_scikit_learns_digits():
    digits, _ = rendering.corpus(200, seed=0)
    assert digits.shape == (200, 8, 8)
    assert set(np.unique(digits)) <= set(range(rendering.GREY_LEVELS))
    assert (digits.reshape(200, -1).sum(1) > 64).all(), "a digit almost without ink"


@pytest.mark.parametrize("face", rendering.FACES)
def test_every_face_has_ten_different_digits(face):
    drawn = [rendering.draw(list(rendering.outline(face, d)), 2, 1.0, 1.0) for d in range(10)]
    assert len({picture.tobytes() for picture in drawn}) == 10


def test_holes_stay_open():
    zero = rendering.draw(list(rendering.outline("DejaVuSans", 0)), 2, 1.0, 1.0)
    assert not zero[32, 32]
    assert zero[:, 32].any()


def test_upscaling_is_what_diffusers_does():
    from diffusers.image_processor import VaeImageProcessor

    digits, _ = rendering.corpus(3, seed=0)
    ours = rendering.upscale(digits, 32)
    for small, large in zip(rendering.to_pixels(digits), ours, strict=True):
        theirs = VaeImageProcessor(vae_scale_factor=4).resize(Image.fromarray(small), 32, 32)
        assert np.array_equal(np.asarray(theirs), large)


# ---- tokenizer ----


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return captions.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_every_caption_word_is_one_token(tokenizer):
    for word in captions.caption_words():
        assert len(tokenizer(word).input_ids) == 3, word


TEXTS = ["", "Größe 7½", "数字の七", "\U0001f58b \t\n \u202e", "x" * 500, "<|endoftext|> </w>", "\x00"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_has_tokens(tokenizer, text):
    tokens = captions.tokenize(tokenizer, [text])
    assert tokens.shape == (1, captions.TEXT_TOKENS)
    assert 0 <= tokens.min() <= tokens.max() < len(tokenizer)


# ---- training ----


@pytest.mark.parametrize("part", ["autoencoder", "denoiser", "clip"])
def test_loss_is_finite_and_falls(trained, part):
    losses = trained[1][part]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_a_training_repeats_itself():
    first, second = (make_assets.train_clip(make_assets.Corpus(count=50), steps=2)[1] for _ in range(2))
    assert first == second


def test_new_folders_load(trained):
    out, _ = trained
    check_generator(out / "generator")
    load_clip(out / "clip")


def check_generator(folder):
    """The folder loads in float32 and turns a picture into another one of the same size."""
    pipeline = load_pipeline(folder)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    source = Image.fromarray(rendering.upscale(rendering.corpus(1, seed=5)[0], 32)[0]).convert("RGB")
    image = np.asarray(pipeline(DIGIT_PROMPTS[0], source, strength=0.5, num_inference_steps=4).images[0])
    assert image.shape == (32, 32, 3)
    assert image.std() > 0


# ---- the folders in the package ----


def test_shipped_folders_are_small_and_name_no_machine():
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    configs = [path for path in files if path.name.endswith(("config.json", "index.json"))]
    assert configs
    assert not [path for path in configs if '"/' in path.read_text()]


def test_shipped_clip_reads_digits_it_has_not_seen():
    digits, labels = rendering.corpus(200, seed=make_assets.SEED + 99)
    images = [Image.fromarray(picture) for picture in rendering.upscale(digits, 32)]
    right = zero_shot(load_clip(ASSETS / "clip"), images, DIGIT_PROMPTS) == labels
    assert right.mean() >= 0.95


def test_shipped_generator_draws_what_the_prompt_says():
    check_generator(ASSETS / "generator")
    pipeline = load_pipeline(ASSETS / "generator")
    blank = [Image.new("RGB", (32, 32))] * 30
    noise = torch.Generator().manual_seed(0)
    images = pipeline(
        DIGIT_PROMPTS * 3, blank, strength=1.0, guidance_scale=3, num_inference_steps=10, generator=noise
    ).images
    right = zero_shot(load_clip(ASSETS / "clip"), images, DIGIT_PROMPTS) == np.tile(np.arange(10), 3)
    assert right.mean() >= 0.8
