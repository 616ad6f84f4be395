"""LoRA merged at load equals diffusers with the same files, fused or scaled, and the formula."""

import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file

from discl import Engine, Request
from discl.engine.pretrained import load_model
from discl.engine.pretrained.lora import Lora, lora_digest
from discl.errors import ModelError
from tests.adapters import save_kohya_lora, save_lora
from tests.engine.oracle import assert_close_pixels, diffusers_image, load_pipeline, random_image
from tests.tiny import tiny_lcm, tiny_sd, tiny_sdxl

CPU, STEPS = torch.device("cpu"), 6
FAMILIES = {
    "sd1": tiny_sd,
    "sdxl": tiny_sdxl,
    "sdxl-refiner": lambda folder, seed: tiny_sdxl(folder, seed, refiner=True),
    "lcm": tiny_lcm,
    "sd1-with-lcm-lora": lambda folder, seed: tiny_sd(folder, seed, scheduler="lcm"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"), seed=4)


@pytest.fixture(scope="module")
def lora(folder, tmp_path_factory):
    return save_lora(load_pipeline(folder), tmp_path_factory.mktemp("lora"), seed=5)


def parts(pipe) -> dict[str, dict[str, torch.Tensor]]:
    names = ("unet", "text_encoder", "text_encoder_2")
    return {name: getattr(pipe, name).state_dict() for name in names if getattr(pipe, name, None) is not None}


def assert_equal_weights(pipe, other) -> None:
    for name, weights in parts(other).items():
        torch.testing.assert_close(parts(pipe)[name], weights, rtol=0, atol=0)


def requests_of(seed: int) -> list[Request]:
    wishes = itertools.product((0, 50), (1.0, 7.5))
    return [Request(random_image(64, 48, seed), "a cat", *wish[:1], seed, text_guidance=wish[1]) for wish in wishes]


@pytest.mark.parametrize("family", FAMILIES)
def test_two_files_equal_diffusers_fused_and_scaled_alike(tmp_path, family):
    folder = FAMILIES[family](tmp_path / "model", 4)
    weights = {"first": 0.8, "second": -0.5}
    files = [save_lora(load_pipeline(folder), tmp_path / name, seed) for seed, name in enumerate(weights)]
    loras = [f"{file}:{weight}" for file, weight in zip(files, weights.values(), strict=True)]
    scaled, fused = load_pipeline(folder), load_pipeline(folder)
    for pipe in (scaled, fused):
        for file in files:
            pipe.load_lora_weights(str(file), adapter_name=file.name)
        pipe.set_adapters([*weights], [*weights.values()])
    fused.fuse_lora(components=[*parts(fused)], adapter_names=[*weights])
    fused.unload_lora_weights()
    with Engine.from_pretrained(folder, loras=loras, steps=STEPS, slots=4) as engine:
        assert_equal_weights(engine.model.pipe, fused)
        samples = list(engine.run(requests_of(seed=1)))
    for sample in samples:
        assert_close_pixels(sample.image, diffusers_image(scaled, sample.request, STEPS, 7.5))


def test_alpha_and_order_of_the_formula(folder, tmp_path):
    """W + weight * alpha / rank * up @ down, one file after the other, in kohya's format."""
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    shape = load_file(folder / "unet/diffusion_pytorch_model.safetensors")[f"{layer}.weight"].shape
    expected = load_file(folder / "unet/diffusion_pytorch_model.safetensors")[f"{layer}.weight"]
    rng, loras = torch.Generator().manual_seed(6), []
    for rank, alpha, weight in [(2, 4.0, 0.5), (3, 1.5, 1.25)]:
        up, down = (torch.randn(size, generator=rng) for size in ((shape[0], rank), (rank, shape[1])))
        updates = {"lora_unet_" + layer.replace(".", "_"): (up, down, alpha)}
        loras.append(f"{save_kohya_lora(tmp_path / f'{rank}.safetensors', updates)}:{weight}")
        expected = expected + weight * alpha / rank * up @ down
    model = load_model(folder, CPU, torch.float32, loras=loras)
    torch.testing.assert_close(model.unet.state_dict()[f"{layer}.weight"], expected)
    untouched = load_pipeline(folder).unet.state_dict()
    changed = [name for name, value in model.unet.state_dict().items() if not torch.equal(value, untouched[name])]
    assert changed == [f"{layer}.weight"]


TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
TEXT = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
FORMATS = {
    "diffusers-2023": lambda up, down: {
        f"unet.{TO_Q[:-5]}.processor.to_q_lora.up.weight": up[TO_Q],
        f"unet.{TO_Q[:-5]}.processor.to_q_lora.down.weight": down[TO_Q],
    },
    "diffusers-lora-linear-layer": lambda up, down: {
        f"unet.{TO_Q}.lora.up.weight": up[TO_Q],
        f"unet.{TO_Q}.lora.down.weight": down[TO_Q],
    },
    "peft": lambda up, down: {f"unet.{TO_Q}.lora_A.weight": down[TO_Q], f"unet.{TO_Q}.lora_B.weight": up[TO_Q]},
    "kohya-with-convolutions": lambda up, down: {
        "lora_unet_" + CONVOLUTION.replace(".", "_") + ".lora_up.weight": up[CONVOLUTION],
        "lora_unet_" + CONVOLUTION.replace(".", "_") + ".lora_down.weight": down[CONVOLUTION],
    },
    "kohya-in-original-names": lambda up, down: {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight": up[TO_Q],
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight": down[TO_Q],
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_up.weight": torch.zeros(32, 2),
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_down.weight": torch.zeros(2, 32),
        "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q.lora_up.weight": torch.zeros(16, 2),
        "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q.lora_down.weight": torch.zeros(2, 16),
    },
}


@pytest.mark.parametrize("form", FORMATS)
def test_formats_of_the_last_years(folder, tmp_path, form):
    model = tiny_sdxl(tmp_path / "sdxl", 4) if form == "kohya-in-original-names" else folder
    before = load_pipeline(model).unet.state_dict()
    rng = torch.Generator().manual_seed(8)
    up = {TO_Q: torch.randn(16, 2, generator=rng), CONVOLUTION: torch.randn(16, 2, 1, 1, generator=rng)}
    down = {TO_Q: torch.randn(2, 16, generator=rng), CONVOLUTION: torch.randn(2, 16, 3, 3, generator=rng)}
    save_file(FORMATS[form](up, down), tmp_path / "lora.safetensors")
    after = load_model(model, CPU, torch.float32, loras=[f"{tmp_path}/lora.safetensors:0.5"]).unet.state_dict()
    (changed,) = [name for name, value in after.items() if not torch.equal(value, before[name])]
    layer = changed.removesuffix(".weight")
    assert layer == (CONVOLUTION if "convolution" in form else TO_Q)
    update = torch.einsum("or...,ri...->oi...", up[layer], down[layer])
    torch.testing.assert_close(after[changed], before[changed] + 0.5 * update)


def test_kohyas_text_encoder(folder, tmp_path):
    before, rng = load_pipeline(folder).text_encoder.state_dict(), torch.Generator().manual_seed(9)
    updates, expected = {}, dict(before)
    for part in TEXT:
        weight = before[f"encoder.layers.1.{part}.weight"]
        up, down = (torch.randn(size, generator=rng) for size in ((weight.shape[0], 2), (2, weight.shape[1])))
        updates[f"lora_te_text_model_encoder_layers_1_{part.replace('.', '_')}"] = (up, down, 1.0)
        expected[f"encoder.layers.1.{part}.weight"] = weight + 0.5 * up @ down
    file = save_kohya_lora(tmp_path / "lora.safetensors", updates)
    after = load_model(folder, CPU, torch.float32, loras=[str(file)]).pipe.text_encoder.state_dict()
    torch.testing.assert_close(after, expected)


def test_sums_are_float32_sums_whatever_the_dtype(folder, lora):
    exact = load_model(folder, CPU, torch.float32, loras=[str(lora)])
    half = load_model(folder, CPU, torch.bfloat16, loras=[str(lora)])
    for name, value in exact.unet.state_dict().items():
        assert torch.equal(half.unet.state_dict()[name], value.bfloat16())


def test_the_digest_is_of_bytes_weights_and_order(folder, lora, tmp_path):
    file = next(lora.glob("*.safetensors"))
    other = tmp_path / "elsewhere.safetensors"
    other.write_bytes(file.read_bytes())
    assert lora_digest([]) == ""
    same = {lora_digest([form]) for form in (str(lora), str(file), f"{file}:1", f"{file}:1.0", str(other))}
    assert len(same) == 1 and len(same.pop()) == 32
    doubled = tmp_path / "doubled.safetensors"
    save_file({name: 2 * value for name, value in load_file(file).items()}, doubled)
    wishes = [[file], [doubled], [f"{file}:0.5"], [file, doubled], [doubled, file]]
    assert len({lora_digest([*map(str, wish)]) for wish in wishes}) == len(wishes)
    digests = [load_model(folder, CPU, torch.float32, loras=wish).digest for wish in ([], [str(lora)], [f"{lora}:0.5"])]
    assert len(set(digests)) == 3


def test_forms_of_a_lora(lora):
    file = next(lora.glob("*.safetensors"))
    assert Lora.parse(f"{lora}:0.25") == Lora(file, 0.25)
    assert Lora.parse(f"{file}:-1") == Lora(file, -1.0)
    assert Lora.parse(str(lora)) == Lora(file, 1.0)


def test_what_cannot_be_merged_is_named(folder, lora, tmp_path):
    extended = tiny_sdxl(tmp_path / "sdxl", 4)
    foreign = save_lora(load_pipeline(extended), tmp_path / "foreign", 7)
    empty, two, cut = (tmp_path / name for name in ("empty", "two", "cut"))
    for place in (empty, two, cut):
        place.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"x": torch.zeros(1)}, two / name)
    whole = next(lora.glob("*.safetensors")).read_bytes()
    (cut / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save({}, tmp_path / "lora.bin")
    nan = {name: value * float("nan") for name, value in load_file(next(lora.glob("*.safetensors"))).items()}
    save_file(nan, tmp_path / "nan.safetensors")
    for given, message in [
        (foreign, "another family"),
        (two / "a.safetensors", "cannot be merged"),
        (tmp_path / "nowhere:0.5", "neither a folder nor"),
        (f"{lora}:nan", "finite"),
        (tmp_path / "lora.bin", "pickle"),
        (empty, "0 .safetensors files"),
        (two, "2 .safetensors files"),
        (cut, "cannot be merged"),
        (tmp_path / "nan.safetensors", "cannot be merged"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            load_model(folder, CPU, torch.float32, loras=[str(given)])
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="another family"):
        load_model(extended, CPU, torch.float32, loras=[str(lora)])
