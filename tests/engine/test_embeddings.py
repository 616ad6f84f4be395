"""Textual inversion equals diffusers' own loader, with several vectors to a word and in both encoders of SDXL."""

import pytest
import torch
from safetensors.torch import save_file

from discl import Engine, Request
from discl.engine.pretrained import load_model
from discl.engine.pretrained.embeddings import Embedding, embedding_digest
from discl.errors import ModelError
from tests.adapters import save_embedding
from tests.engine.oracle import assert_close_pixels, diffusers_image, load_pipeline, random_image
from tests.tiny import tiny_sd, tiny_sdxl

CPU, STEPS = torch.device("cpu"), 6


def vectors(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def assert_equals_diffusers(folder, pipe, embeddings, prompts) -> None:
    image = random_image(64, 48, seed=1)
    requests = [Request(image, prompt, 30, 5, negative_prompt=negative) for prompt, negative in prompts]
    with Engine.from_pretrained(folder, embeddings=embeddings, steps=STEPS, slots=3, solver="ddim") as engine:
        samples = list(engine.run(requests))
    for sample in samples:
        assert_close_pixels(sample.image, diffusers_image(pipe, sample.request, STEPS, 7.5))
    assert len({sample.image.tobytes() for sample in samples}) == len(samples)


def test_words_of_one_and_of_several_vectors(tmp_path):
    folder, pipe = tiny_sd(tmp_path / "sd", seed=4), load_pipeline(tmp_path / "sd", "ddim")
    one = save_embedding(tmp_path / "one.safetensors", {"<fox>": vectors(1, 16, 1)[0]})
    three = save_embedding(tmp_path / "three.safetensors", {"<hut>": vectors(3, 16, 2)})
    pipe.load_textual_inversion(str(one))
    pipe.load_textual_inversion(str(three))
    prompts = [("a <fox>", ""), ("a <hut> x", ""), ("a <fox> <hut>", "<fox>"), ("a fox", "bad <hut>")]
    assert_equals_diffusers(folder, pipe, [str(one), str(three)], prompts)


def test_both_encoders_of_sdxl(tmp_path):
    folder, pipe = tiny_sdxl(tmp_path / "sdxl", seed=4), load_pipeline(tmp_path / "sdxl", "ddim")
    both = {"clip_l": vectors(2, 16, 3), "clip_g": vectors(2, 24, 4)}
    file = save_embedding(tmp_path / "style.safetensors", both)
    for tensor, tail in (("clip_l", ""), ("clip_g", "_2")):
        parts = {"tokenizer": getattr(pipe, f"tokenizer{tail}"), "text_encoder": getattr(pipe, f"text_encoder{tail}")}
        pipe.load_textual_inversion(both[tensor], token="<s>", **parts)
    assert_equals_diffusers(folder, pipe, [f"{file}:<s>"], [("a <s>", ""), ("a", "<s>"), ("a style", "")])


def test_the_word_is_given_or_the_files_own_or_its_name(tmp_path):
    named = save_embedding(tmp_path / "a.safetensors", {"<fox>": vectors(1, 16, 1)})
    nameless = save_embedding(tmp_path / "my style.safetensors", {"emb_params": vectors(1, 16, 1)})
    assert Embedding.parse(str(named)).word == "<fox>"
    assert Embedding.parse(f"{named}:<dog>").word == "<dog>"
    assert Embedding.parse(str(nameless)).word == "my style"
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(named.read_bytes())
    assert embedding_digest([]) == "" and len(embedding_digest([str(named)])) == 32
    assert embedding_digest([str(named)]) == embedding_digest([f"{moved}:<fox>"])
    assert embedding_digest([str(named)]) != embedding_digest([f"{named}:<dog>"])


def test_reloading_keeps_words_and_updates(tmp_path):
    folder = tiny_sd(tmp_path / "sd", seed=4)
    file = save_embedding(tmp_path / "one.safetensors", {"<fox>": vectors(1, 16, 1)})
    half = load_model(folder, CPU, torch.bfloat16, embeddings=[str(file)])
    again = half.reloaded(torch.float32)
    assert (half.dtype, again.dtype, again.digest) == (torch.bfloat16, torch.float32, half.digest)
    expected = load_model(folder, CPU, torch.float32, embeddings=[str(file)]).encode_text("a <fox>", False)
    torch.testing.assert_close(again.encode_text("a <fox>", False).states, expected.states, rtol=0, atol=0)
    assert half.encode_text("a <fox>", False).states.dtype == torch.bfloat16


def test_what_cannot_be_added_is_named(tmp_path):
    folder = tiny_sd(tmp_path / "sd", seed=4)
    wide = save_embedding(tmp_path / "wide.safetensors", {"<fox>": vectors(1, 24, 1)})
    several = save_embedding(tmp_path / "several.safetensors", {"a": vectors(1, 16, 1), "b": vectors(1, 16, 1)})
    known = save_embedding(tmp_path / "known.safetensors", {"a</w>": vectors(1, 16, 1)})
    broken = save_embedding(
        tmp_path / "broken.safetensors", {"<fox>": vectors(2, 16, 1).index_fill(1, torch.tensor(3), torch.nan)}
    )
    (tmp_path / "cut.safetensors").write_bytes(wide.read_bytes()[:20])
    save_file({}, tmp_path / "none.safetensors")
    torch.save({}, tmp_path / "learned_embeds.bin")
    for given, message in [
        (wide, "another family"),
        (several, "2 tensors"),
        (broken, "holds NaN"),
        (known, "already in tokenizer"),
        (tmp_path / "cut.safetensors", "cannot be read|can be read"),
        (tmp_path / "none.safetensors", "0 tensors"),
        (tmp_path / "learned_embeds.bin", "pickle"),
        (tmp_path / "nowhere.safetensors", "not a .safetensors file"),
        (f"{wide}:", "not a .safetensors file"),
        (f"{wide}x", "not a .safetensors file"),
        ("", "not a .safetensors file"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            load_model(folder, CPU, torch.float32, embeddings=[str(given)])
        assert "\n" not in str(caught.value)
    first, second = (
        save_embedding(tmp_path / f"{name}.safetensors", {name: vectors(2, 16, 1)}) for name in ("hut", "huts")
    )
    with pytest.raises(ModelError, match="'hut' stands inside 'huts'"):
        load_model(folder, CPU, torch.float32, embeddings=[str(second), str(first)])
    load_model(folder, CPU, torch.float32, embeddings=[str(second), f"{first}:<hat>"])
    with pytest.raises(ModelError, match="give lists of paths"):
        load_model(folder, CPU, torch.float32, embeddings=str(first))
