"""A model on disk: which files count, what they are read as, and what is refused with one line."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from discl.engine.pretrained import load_model
from discl.engine.pretrained.digest import model_digest
from discl.engine.pretrained.files import find_model
from discl.errors import ModelError
from tests.engine.oracle import load_pipeline
from tests.tiny import tiny_lcm, tiny_sd, tiny_sd2, tiny_sdxl

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"), seed=4)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    return tiny_sdxl(tmp_path_factory.mktemp("sdxl"), seed=4)


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def modules(pipe) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def edit(file, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def assert_refused(path, message: str, **options) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path, CPU, torch.float32, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_variants_and_shards(extended, tmp_path, dtype, variant, shard):
    """Weights under every name that diffusers saves them by, in every dtype: what is loaded is what casting gives."""
    half = load_pipeline(extended, torch_dtype=torch.float16)
    half.save_pretrained(tmp_path / "half", variant=variant, max_shard_size=shard)
    if variant:
        assert not (tmp_path / "half" / UNET).exists()
    model = load_model(tmp_path / "half", CPU, dtype)
    for name, part in modules(half).items():
        upcast = name == "vae" and dtype == torch.float16
        for key, value in modules(model.pipe)[name].state_dict().items():
            expected = part.state_dict()[key]
            assert torch.equal(value, expected.float() if upcast else expected.to(dtype)), (name, key)


def test_the_plain_weights_come_first(folder, tmp_path):
    expected = load_model(folder, CPU, torch.float32)
    garbage = {name: torch.zeros_like(value) for name, value in load_file(folder / UNET).items()}
    save_file(garbage, folder / UNET.replace(".safetensors", ".fp16.safetensors"))
    model = load_model(folder, CPU, torch.float32)
    torch.testing.assert_close(model.unet.state_dict(), expected.unet.state_dict(), rtol=0, atol=0)
    assert model.digest == expected.digest  # a file that is not loaded is no part of the identity


@pytest.mark.parametrize("make", [tiny_sd, tiny_sd2, tiny_lcm, tiny_sdxl])
@pytest.mark.parametrize("dtype", DTYPES)
def test_loading_in_a_dtype_is_casting_to_it(tmp_path, make, dtype):
    folder = make(tmp_path / "model", 6)
    model = load_model(folder, CPU, dtype)
    wide = make is tiny_sdxl and dtype == torch.float16  # the VAE that says force_upcast
    for name, part in modules(load_pipeline(folder)).items():
        own = torch.float32 if name == "vae" and wide else dtype
        for key, value in modules(model.pipe)[name].state_dict().items():
            assert torch.equal(value, part.state_dict()[key].to(own)), (name, key)
    assert model.vae.dtype == (torch.float32 if wide else dtype)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_names_of_older_versions(tmp_path, make):
    """The published folders were saved years ago: other names in the VAE's attention and in the text encoders."""
    folder = make(tmp_path / "model", 4)
    expected = load_model(folder, CPU, torch.float32)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    place = re.compile(r"(?<=attentions\.0\.)(to_[qkv]|to_out\.0)(?=\.)")
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({place.sub(lambda match: older[match[0]], name): value for name, value in load_file(file).items()}, file)
    for file in folder.glob("text_encoder*/model.safetensors"):
        weights = {name.removeprefix("text_model."): value for name, value in load_file(file).items()}
        weights = {name if "projection" in name else f"text_model.{name}": value for name, value in weights.items()}
        save_file(weights | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, file)
    model = load_model(folder, CPU, torch.float32)
    for name, part in modules(expected.pipe).items():
        torch.testing.assert_close(modules(model.pipe)[name].state_dict(), part.state_dict(), rtol=0, atol=0)


def test_reloading_in_another_dtype(extended):
    half = load_model(extended, CPU, torch.float16)
    again = half.reloaded(torch.float32)
    assert (again.dtype, again.unet.dtype, again.digest) == (torch.float32, torch.float32, half.digest)
    assert half.unet.dtype == torch.float16 and again.unet is not half.unet
    with torch.no_grad():
        text = again.encode_text("a cat", negative=False)
    condition = again.condition(text, 64, 48, 7.5, negative=False)
    assert condition.time_ids.tolist() == [64, 48, 0, 0, 64, 48]


def test_components_that_are_null_or_unused(extended, tmp_path):
    folder = shutil.copytree(extended, tmp_path / "copy")
    index = folder / "model_index.json"
    edit(index, image_encoder=["transformers", "CLIPVisionModelWithProjection"], feature_extractor=[None, None])
    load_model(folder, CPU, torch.float32)
    edit(index, text_encoder=[None, None], tokenizer=[None, None])
    assert_refused(folder, "text states of width 40, its text encoders make 24")
    edit(index, text_encoder_2=[None, None])
    assert_refused(folder, "has no text_encoder_2: a StableDiffusionXLPipeline needs them")
    edit(index, text_encoder_2=["transformers", "CLIPTextModelWithProjection"])
    edit(index, text_encoder=["transformers", "CLIPTextModel"])
    assert_refused(folder, "no text encoder for its prompts, or no tokenizer")
    edit(index, _class_name=["pipeline.py", "Custom"])
    assert_refused(folder, "is a .*Custom.*: give a Stable Diffusion")


def test_the_digest_is_of_what_shapes_pixels(folder, saved, tmp_path):
    before = model_digest(find_model(saved))
    assert model_digest(find_model(folder)) == before and len(before) == 32
    (folder / "README.md").write_text("words")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/config.json").write_text("{}")
    (folder / "weights.safetensors").write_bytes(b"another checkpoint")
    assert model_digest(find_model(folder)) == before
    seen = {before}
    for part in ("scheduler/scheduler_config.json", "tokenizer/merges.txt", "unet/config.json", "model_index.json"):
        with open(folder / part, "a") as stream:
            stream.write(" ")
        seen.add(model_digest(find_model(folder)))
    for part in (UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        save_file({name: value * 2 for name, value in load_file(folder / part).items()}, folder / part)
        seen.add(model_digest(find_model(folder)))
    assert len(seen) == 8


def test_a_file_is_read_once_for_its_digest(folder, monkeypatch):
    opened = []

    def recording(file, *mode):
        opened.append(file)
        return open(file, *mode)

    monkeypatch.setattr("discl.engine.pretrained.digest.open", recording, raising=False)
    first = model_digest(find_model(folder))
    assert len(opened) == len(set(opened)) > 5
    del opened[:]
    assert model_digest(find_model(folder)) == first == load_model(folder, CPU, torch.float32).digest
    assert not opened
    with open(folder / UNET, "ab") as stream:
        stream.write(b" ")
    assert model_digest(find_model(folder)) != first
    assert opened == [folder / UNET]


def test_a_hub_id_with_and_without_revision(folder, extended, tmp_path, monkeypatch):
    """Read from a cache laid out as huggingface_hub does; nothing is fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache/models--someone--tiny"
    for revision, commit, source in (("main", "0" * 40, folder), ("v2", "1" * 40, extended)):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(source, repository / "snapshots" / commit)
    for name, source in (("hub:someone/tiny", folder), ("hub:someone/tiny@v2", extended)):
        assert model_digest(find_model(name)) == model_digest(find_model(source))
    assert load_model("hub:someone/tiny@v2", CPU, torch.float32).unet.config.addition_embed_type == "text_time"
    assert_refused("hub:someone/other", "hub:someone/other cannot be fetched")
    assert_refused("hub:someone/tiny@v9", "hub:someone/tiny@v9 cannot be fetched")
    assert_refused("hub:no such id!", "cannot be fetched")


@pytest.mark.parametrize(
    "pipeline",
    ["FluxPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionControlNetPipeline", "StableDiffusion3Pipeline"],
)
def test_other_pipelines_are_refused(folder, pipeline):
    edit(folder / "model_index.json", _class_name=pipeline)
    assert_refused(folder, f"is a {pipeline}: give a Stable Diffusion")


@pytest.mark.parametrize("factor", [None, 0.0, "0.18", True])
def test_a_vae_without_a_factor_is_refused(folder, factor):
    edit(folder / "vae" / "config.json", scaling_factor=factor)
    assert_refused(folder, f"scaling_factor={factor!r}, which is no number")


def test_other_networks_under_a_known_name_are_refused(tmp_path):
    inpainting = tiny_sd(tmp_path / "inpainting", 1, unet={"in_channels": 9})
    assert_refused(inpainting, "takes 9 channels, its VAE makes 4")
    learned = tiny_sd(tmp_path / "learned", 1, unet={"out_channels": 8})
    assert_refused(learned, "learned variances")
    classes = tiny_sd(tmp_path / "classes", 1, unet={"class_embed_type": "timestep"})
    assert_refused(classes, "class_embed_type='timestep'")
    numbered = tiny_sd(tmp_path / "numbered", 1, unet={"num_class_embeds": 5})
    assert_refused(numbered, "num_class_embeds=5")
    wide = tiny_sd(tmp_path / "wide", 1, unet={"width": 24})
    assert_refused(wide, "text states of width 24, its text encoders make 16")
    base = tiny_sdxl(tmp_path / "base", 1)
    edit(base / "model_index.json", requires_aesthetics_score=True)
    assert_refused(base, "requires_aesthetics_score in model_index.json may be wrong")
    edit(tiny_sdxl(tmp_path / "named", 1) / "model_index.json", _class_name="StableDiffusionPipeline")
    assert_refused(tmp_path / "named", "width 40|addition_embed_type")


@pytest.mark.parametrize(
    ("part", "kind"),
    [("unet", "UNet3DConditionModel"), ("vae", "AutoencoderTiny"), ("text_encoder", "RobertaSeriesModel")],
)
def test_components_of_another_class_are_refused(folder, part, kind):
    edit(folder / "model_index.json", **{part: ["diffusers", kind]})
    assert_refused(folder, f"has a {kind} as its {part}: it should be a")


def test_tokenizers_that_do_not_fit_are_refused(folder):
    edit(folder / "tokenizer/tokenizer_config.json", model_max_length=77)
    assert_refused(folder, "tokenizer makes 77 tokens, its text encoder reads 16")


@pytest.mark.parametrize("part", [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_damaged_weights_are_refused(folder, part):
    weights = load_file(folder / part)
    first = sorted(weights)[0]
    damages = {
        "lacks 1 weights": {name: value for name, value in weights.items() if name != first},
        "cannot be loaded": weights | {first: torch.zeros(3, 5)},
    }
    for message, damaged in damages.items():
        save_file(damaged, folder / part)
        assert_refused(folder, message)
    save_file(weights, folder / part)
    (folder / part).write_bytes((folder / part).read_bytes()[:-1000])
    assert_refused(folder, "cannot be loaded")
    (folder / part).unlink()
    assert_refused(folder, "no .safetensors weights")
    torch.save(weights, (folder / part).with_suffix(".bin"))
    assert_refused(folder, r"\.bin, a pickle")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_weights_that_are_no_numbers_are_named(folder, part, value, caplog):
    weights = load_file(folder / part)
    for name in sorted(weights)[:: max(1, len(weights) // 5)]:
        bad = weights[name].clone()
        bad.view(-1)[-1] = value
        save_file(weights | {name: bad}, folder / part)
        caplog.clear()
        load_model(folder, CPU, torch.float32)
        assert f"{part.partition('/')[0]}.{name} holds NaN or infinity in float32" in caplog.text


def test_weights_whose_squares_overflow_are_weights(folder, caplog):
    """The largest number of a dtype is one: what float32 holds and float16 does not is named in float16 alone."""
    weights = load_file(folder / UNET)
    save_file(weights | {"conv_in.bias": torch.full_like(weights["conv_in.bias"], 3e38)}, folder / UNET)
    assert load_model(folder, CPU, torch.float32).unet.conv_in.bias.eq(3e38).all()
    assert "infinity" not in caplog.text
    load_model(folder, CPU, torch.float16)
    assert "unet.conv_in.bias holds NaN or infinity in float16" in caplog.text


def test_folders_that_are_no_models_are_refused(folder, tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere is not a folder")
    assert_refused(tmp_path, "has no model_index.json")
    assert_refused(tmp_path / "model.ckpt", "pickle, which is never loaded")
    for part in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        shutil.move(folder / part, tmp_path / "away")
        assert_refused(folder, "cannot be loaded")
        shutil.move(tmp_path / "away", folder / part)
    for name in ("tokenizer.json", "vocab.json"):
        (folder / "tokenizer" / name).rename(tmp_path / name)
    assert_refused(folder, "lacks the words of its tokenizer")
    for name in ("tokenizer.json", "vocab.json"):
        (tmp_path / name).rename(folder / "tokenizer" / name)
    for text, message in (("{", "not valid JSON"), ("[]", "not a JSON object"), ("{}", "is a None")):
        (folder / "model_index.json").write_text(text)
        assert_refused(folder, message)
