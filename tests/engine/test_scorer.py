import json
import logging
from datetime import timedelta

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from discl.engine.scorer import Scorer
from discl.errors import ModelError
from discl.kernels import cosine_scores

VISION = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
MODEL = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
SIZES = [(32, 32), (33, 47), (101, 20), (8, 8), (64, 64), (33, 47)]  # width, height
WORDS = ["a photo of a cat", "a photo of a dog", "ein Löwenzahn", ""]
PREPROCESS = {
    "openai": {},
    "bilinear": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25], "interpolation": "bilinear"},
    "longest": {"resize_mode": "longest", "fill_color": 128},
}


@pytest.fixture(scope="module")
def weights():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return open_clip.CLIP(**MODEL).state_dict()


@pytest.fixture(scope="module", params=PREPROCESS)
def folder(request, weights, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp(request.param), weights, PREPROCESS[request.param])


@pytest.fixture
def plain(weights, tmp_path):
    return write_folder(tmp_path / "clip", weights, {})


def write_folder(path, weights, preprocess, model=MODEL):
    path.mkdir(exist_ok=True)
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(weights, path / "open_clip_model.safetensors")
    return path


def pictures(sizes=SIZES, seed=11):
    """Soft noise: scores that differ, and pixels of every value."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def open_clip_says(folder, images, words):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(words)
    with torch.no_grad():
        embeddings = [model.eval().encode_image(preprocess(image)[None], normalize=True) for image in images]
        return torch.cat(embeddings), model.encode_text(tokens, normalize=True)


def test_scores_equal_open_clips_own(folder):
    scorer, images = Scorer.from_pretrained(str(folder), batch=4), pictures()
    embeddings, texts = scorer.embed_pil(images), scorer.embed_texts(WORDS)
    judge_images, judge_texts = open_clip_says(folder, images, WORDS)
    torch.testing.assert_close(embeddings, judge_images, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, judge_texts, atol=1e-5, rtol=0)
    class_ids = torch.arange(len(images)) % len(WORDS)
    text_score, image_score, _, _ = cosine_scores(embeddings, texts, class_ids, embeddings.flip(0), 0.3)
    judge = judge_images @ judge_texts.T
    torch.testing.assert_close(text_score, judge.gather(1, class_ids[:, None])[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(image_score, (judge_images * judge_images.flip(0)).sum(1), atol=1e-5, rtol=0)


def test_a_captioner_scores_too(tmp_path):
    """CoCa's text tower hides other tokens from every text: a mask for each row and head."""
    pooled = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    config = {"embed_dim": 24, "vision_cfg": {**VISION, **pooled}, "text_cfg": text, "multimodal_cfg": decoder}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = open_clip.CoCa(**config)
    with torch.no_grad():
        model.text.transformer.resblocks[-1].attn.in_proj_weight.mul_(5)  # else hardly any token is looked at
    state = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    folder = write_folder(tmp_path / "coca", state, {}, {**config, "custom_text": True})
    scorer = Scorer.from_pretrained(str(folder), batch=3)
    judge_images, judge_texts = open_clip_says(folder, pictures(), WORDS)
    torch.testing.assert_close(scorer.embed_pil(pictures()), judge_images, atol=1e-5, rtol=0)
    torch.testing.assert_close(scorer.embed_texts(WORDS), judge_texts, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(plain, dtype):
    exact = Scorer.from_pretrained(str(plain), batch=2)
    half = Scorer.from_pretrained(str(plain), dtype=dtype, batch=2)
    images = pictures()
    assert half.digest == exact.digest
    for method, given in (("embed_pil", images), ("embed_texts", WORDS)):
        result = getattr(half, method)(given)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, getattr(exact, method)(given), atol=2e-2, rtol=0)


def test_bfloat16_moves_scores_by_less_than_5e_3(plain, record_property):
    exact, half = (Scorer.from_pretrained(str(plain), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    images = pictures(seed=3)
    scores = [scorer.embed_pil(images) @ scorer.embed_texts(WORDS).T for scorer in (exact, half)]
    shift = (scores[0] - scores[1]).abs().max().item()
    record_property("largest shift", shift)
    assert 0 < shift < 5e-3, shift


TOWERS = {
    "vit": VISION,
    "oblong": {**VISION, "image_size": [24, 48]},
    "convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("tower", TOWERS)
def test_bfloat16_is_as_near_to_float32_as_open_clips_own(tower, seed, tmp_path, record_property):
    """Large weights make bfloat16 itself move scores by up to 1e-2: nothing of ours may add to that."""
    config = {**MODEL, "vision_cfg": TOWERS[tower]}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
        for weight in model.parameters():
            weight.mul_(2.5 if weight.ndim > 1 else 1)
    folder = write_folder(tmp_path / "clip", model.state_dict(), {}, config)
    images = pictures(SIZES * 4, seed)
    scorer = Scorer.from_pretrained(str(folder), dtype=torch.bfloat16)
    ours = scorer.embed_pil(images) @ scorer.embed_texts(WORDS).T
    exact, theirs = (open_clip_scores(folder, images, dtype) for dtype in (torch.float32, torch.bfloat16))
    shift, their_shift = ((scores - exact).abs().mean().item() for scores in (ours, theirs))
    record_property("mean shift", shift)
    assert 0 < shift < 1.1 * their_shift


def open_clip_scores(folder, images, dtype):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval().to(dtype)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(WORDS)
    with torch.no_grad():
        pixels = torch.stack([preprocess(image) for image in images]).to(dtype)
        towers = model.encode_image(pixels), model.encode_text(tokens)
        seen, words = (torch.nn.functional.normalize(each.float(), dim=-1) for each in towers)
        return seen @ words.T


def test_an_embedding_does_not_depend_on_its_neighbours(plain):
    scorer, images = Scorer.from_pretrained(str(plain), batch=4), pictures([(40, 30)] * 7, seed=5)
    alone = torch.cat([scorer.embed_pil([image]) for image in images])
    order = torch.tensor([6, 2, 5, 0, 3, 1, 4])
    crowd = scorer.embed_pil([images[i] for i in order])
    assert torch.equal(crowd, alone[order])
    pixels = torch.from_numpy(np.stack([np.array(image) for image in images]))
    wide = scorer.embed_images(pixels[order], batch=16)
    torch.testing.assert_close(wide, crowd, rtol=0, atol=1e-6)
    assert torch.equal(torch.cat([scorer.embed_images(image[None], batch=16) for image in pixels])[order], wide)
    alone = torch.cat([scorer.embed_texts([word]) for word in WORDS])
    crowd = Scorer.from_pretrained(str(plain), batch=4).embed_texts(["another", *WORDS])
    assert torch.equal(crowd[1:], alone)


def test_sizes_mix_without_a_difference(plain):
    scorer = Scorer.from_pretrained(str(plain), batch=4)
    images = [torch.from_numpy(np.array(image)) for image in pictures(SIZES * 2)]
    mixed = scorer.embed_mixed(images)
    assert torch.equal(scorer.embed_pil([Image.fromarray(image.numpy()) for image in images]), mixed)
    for image, vector in zip(images, mixed, strict=True):
        assert torch.equal(scorer.embed_images(image[None])[0], vector)


def test_a_text_is_encoded_once(plain, monkeypatch):
    scorer = Scorer.from_pretrained(str(plain))
    first = scorer.embed_texts(["a", "b", "a"])
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    monkeypatch.setattr(scorer.model, "encode_text", None)
    assert torch.equal(scorer.embed_texts(["b", "a"]), first[:2].flip(0))


def test_nothing_in_gives_nothing_out(plain):
    scorer = Scorer.from_pretrained(str(plain))
    assert scorer.embed_texts([]).shape == scorer.embed_pil([]).shape == (0, 24)
    assert scorer.embed_images(torch.zeros(0, 9, 9, 3, dtype=torch.uint8)).shape == (0, 24)


def test_other_modes_count_as_rgb(plain):
    scorer, image = Scorer.from_pretrained(str(plain)), pictures([(40, 30)])[0]
    grey = image.convert("L")
    assert torch.equal(scorer.embed_pil([grey]), scorer.embed_pil([grey.convert("RGB")]))


def test_every_file_form_gives_the_same_model(plain, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", MODEL)
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.pt")
    images = pictures()
    forms = [str(plain), f"tiny-clip:{tmp_path}/w.safetensors", f"tiny-clip:{tmp_path}/w.pt"]
    scorers = [Scorer.from_pretrained(form) for form in forms]
    assert [scorer.name for scorer in scorers] == forms
    assert len({scorer.digest for scorer in scorers}) == 1 and len(scorers[0].digest) == 32
    for scorer in scorers[1:]:
        assert torch.equal(scorer.embed_pil(images), scorers[0].embed_pil(images))


def test_the_digest_follows_weights_and_preprocessing(plain, weights, tmp_path):
    before = Scorer.from_pretrained(str(plain)).digest
    changed = {**weights, "logit_scale": weights["logit_scale"] + 1e-3}
    other_weights = write_folder(tmp_path / "weights", changed, {})
    other_settings = write_folder(tmp_path / "settings", weights, {"interpolation": "bilinear"})
    digests = {Scorer.from_pretrained(str(path)).digest for path in (plain, other_weights, other_settings)}
    assert before in digests and len(digests) == 3


def test_loading_leaves_the_root_logger_alone(plain, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    Scorer.from_pretrained(str(plain))
    assert root.handlers == []


def test_wrong_images_are_refused(plain):
    scorer = Scorer.from_pretrained(str(plain))
    with pytest.raises(ValueError, match=r"images: expected uint8 \[B, H, W, 3\], given \[9, 9, 3\]"):
        scorer.embed_images(torch.zeros(9, 9, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="given float32"):
        scorer.embed_images(torch.zeros(1, 9, 9, 3))
    with pytest.raises(ValueError, match="batch: expected at least 1, given 0"):
        Scorer.from_pretrained(str(plain), batch=0)


@pytest.mark.parametrize(
    "name, message",
    [
        ("ViT-B-33:openai", "knows no architecture 'ViT-B-33'; the nearest known is 'ViT-B-32'"),
        (
            "ViT-B-32:opnai",
            "no file .*/opnai, .* no published weights 'opnai'; .* nearest known is 'openai'",
        ),
        ("ViT-B-32:/no/such/file.safetensors", "there is no file /no/such/file.safetensors"),
        ("ViT-B-32", "no such folder, and no weights are named; expected"),
        ("/no/such/folder", "clip '/no/such/folder': no such folder"),
        (
            "hf-hub:nobody/has-this",
            "could not be fetched from the hub .*; connect, or name a folder",
        ),
    ],
)
def test_a_name_that_means_nothing_is_explained(name, message):
    with pytest.raises(ModelError, match=message):
        Scorer.from_pretrained(name)


def test_a_folder_that_is_not_complete_is_explained(plain, tmp_path):
    with pytest.raises(ModelError, match=r"the folder holds no open_clip_config\.json"):
        Scorer.from_pretrained(str(tmp_path))
    (plain / "open_clip_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="could not be loaded"):
        Scorer.from_pretrained(str(plain))
    (plain / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="could not be loaded"):
        Scorer.from_pretrained(str(plain))
    (plain / "open_clip_config.json").write_text("{")
    with pytest.raises(ModelError, match="could not be loaded"):
        Scorer.from_pretrained(str(plain))


def test_weights_that_do_not_fit_or_need_pickle_are_refused(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", {**MODEL, "embed_dim": 25})
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="check that weights and architecture belong together"):
        Scorer.from_pretrained(f"tiny-clip:{tmp_path}/w.safetensors")
    torch.save({"logit_scale": timedelta(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="pickled objects, which are never loaded; convert them"):
        Scorer.from_pretrained(f"tiny-clip:{tmp_path}/w.pt")


def test_texts_that_the_tokenizer_makes_one_of_are_found(plain):
    scorer = Scorer.from_pretrained(str(plain))
    long = "very " * 200
    assert scorer.same_text(WORDS) is None and scorer.same_text([]) is None
    assert scorer.same_text(["an owl", "a fox", "a Fox"]) == (1, 2)
    assert scorer.same_text([long + "small", "a fox", long + "large"]) == (0, 2)
