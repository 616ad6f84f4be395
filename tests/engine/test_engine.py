"""What the engine does with odd requests, broken models and its own counters."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from discl import DisclError, Engine, Request
from discl.engine.noise_schedule import executed_steps
from discl.errors import ModelError
from tests.engine.oracle import random_image
from tests.tiny import tiny_clip, tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"), seed=4)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def request(level=50, **fields) -> Request:
    return Request(random_image(64, 64, seed=1), "a cat", level, noise_seed=7, **fields)


def poison(file, name: str, value: float) -> None:
    weights = load_file(file)
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, file)


def test_executed_steps_are_the_papers():
    """Paper 1.3: the exact row of its table, where floats give 9 and 4 in the last two places."""
    assert [executed_steps(50, level) for level in range(0, 100, 10)] == [
        50,
        45,
        40,
        35,
        30,
        25,
        20,
        15,
        10,
        5,
    ]


@pytest.mark.parametrize(("level", "steps", "smallest"), [(90, 5, 10), (99, 50, 100), (50, 1, 2), (34, 1, 2)])
def test_no_executed_step_is_refused_with_the_smallest_steps(level, steps, smallest):
    with pytest.raises(DisclError, match=f"at least steps={smallest},"):
        executed_steps(steps, level)
    assert executed_steps(smallest, level) == 1


def test_zero_steps_surface_from_run(folder):
    with Engine.from_pretrained(folder, steps=5) as engine, pytest.raises(DisclError, match="steps=10"):
        list(engine.run([request(level=90)]))


def test_stats_count_guided_rows_twice_and_samples_by_status(folder):
    with Engine.from_pretrained(folder, steps=10, slots=4) as engine:
        list(engine.run([request(0), request(50), request(50, text_guidance=1.0)]))
        assert engine.stats.unet_evaluations == 2 * (10 + 5) + 5
        assert engine.stats["samples"] == {"ok": 3}
        assert 0 < engine.stats.slot_occupancy <= 1
        assert set(engine.stats.seconds) >= {"unet", "encode", "text", "decode"}


def test_a_source_is_encoded_once_for_all_its_requests(folder):
    with Engine.from_pretrained(folder, steps=4) as engine:
        calls = []
        encode = engine.model.vae.encode
        engine.model.vae.encode = lambda pixels: calls.append(1) or encode(pixels)
        image = random_image(64, 64, seed=1)
        list(engine.run(Request(image.copy(), "a cat", level, seed) for level in (0, 50) for seed in range(3)))
        assert len(calls) == 1


def test_scored_text_takes_the_most_particular(folder, tmp_path):
    clip = str(tiny_clip(tmp_path / "clip"))
    with Engine.from_pretrained(folder, clip=clip, steps=4, score_prompt="a photo of a {class}") as engine:
        wishes = [
            request(class_name="dog"),
            request(class_name="dog", score_text="a photo of a dog"),
            request(class_name="dog", score_text="a cat"),
        ]
        by_prompt, by_text, other = sorted(engine.run(wishes), key=lambda s: wishes.index(s.request))
    assert by_prompt.text_score == by_text.text_score != other.text_score
    assert by_prompt.embedding.dtype == np.float32
    assert np.linalg.norm(by_prompt.embedding) == pytest.approx(1, abs=1e-5)


def test_without_a_scorer_nothing_is_scored(folder):
    with Engine.from_pretrained(folder, steps=4) as engine:
        (sample,) = engine.run([request()])
    assert (sample.embedding, sample.text_score, sample.image_score) == (None, None, None)
    assert sample.image.dtype == np.uint8 and sample.image.shape == (64, 64, 3)


def test_an_undecodable_source_is_an_error_sample_and_the_run_goes_on(folder, tmp_path):
    random_image(64, 64, seed=2).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    broken = Request(Image.open(tmp_path / "cut.png"), "a cat", 50, noise_seed=1, key="broken")
    small = Request(Image.new("RGB", (5, 64)), "a cat", 50, noise_seed=1, key="small")
    nothing = Request(Image.new("RGB", (0, 5)), "a cat", 50, noise_seed=1, key="nothing", size=(64, 64))
    with Engine.from_pretrained(folder, steps=4) as engine:
        samples = {s.request.key: s for s in engine.run([broken, small, nothing, request(key="good")])}
    assert samples["good"].status == "ok"
    assert samples["broken"].status == "error" and "source image" in samples["broken"].reason
    assert samples["small"].status == "error" and "5 x 64" in samples["small"].reason
    assert samples["nothing"].status == "error" and "0 x 5 pixels" in samples["nothing"].reason
    assert samples["broken"].image is None


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_model_that_gives_nan_is_named_and_nothing_is_kept(copy, part):
    file, name = {
        "unet": (copy / "unet/diffusion_pytorch_model.safetensors", "conv_out.bias"),
        "vae": (copy / "vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias"),
    }[part]
    poison(file, name, float("nan"))
    with Engine.from_pretrained(copy, steps=4) as engine:
        (sample,) = engine.run([request()])
    assert (sample.status, sample.image) == ("nan", None)
    assert "NaN" in sample.reason


def test_a_flat_image_is_not_kept(copy):
    poison(copy / "vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias", 100.0)
    with Engine.from_pretrained(copy, steps=4) as engine:
        (sample,) = engine.run([request()])
    assert (sample.status, sample.image) == ("nan", None)
    assert "flat (every value is 255)" in sample.reason


def test_one_bad_row_does_not_touch_its_neighbours(folder):
    """A source whose latent is infinite shares the batch with a good one."""
    with Engine.from_pretrained(folder, steps=4, slots=2) as engine:
        (alone,) = engine.run([request(key="good")])
        autoencoder = engine.networks().autoencoder
        clean_latent, draw = autoencoder.clean_latent, torch.Generator().manual_seed(666)
        first = torch.randn(1, 4, 8, 8, generator=draw)

        def poisoned(moments, draw):
            latent = clean_latent(moments, draw)
            return latent * float("inf") if torch.equal(draw, first) else latent

        autoencoder.clean_latent = poisoned
        bad = Request(random_image(64, 64, seed=9), "a cat", 50, noise_seed=666, key="bad")
        samples = {s.request.key: s for s in engine.run([bad, request(key="good")])}
    assert samples["bad"].status == "nan"
    np.testing.assert_array_equal(samples["good"].image, alone.image)


def test_one_run_at_a_time(folder):
    with Engine.from_pretrained(folder, steps=4, slots=1) as engine:
        first = engine.run(request() for _ in range(3))
        next(first)
        with pytest.raises(DisclError, match="already running"):
            next(engine.run([request()]))
        first.close()
        assert [s.status for s in engine.run([request()])] == ["ok"]


def test_engines_made_in_threads_are_whole_and_leave_torch_as_it_was(folder, tmp_path):
    clip, build = str(tiny_clip(tmp_path / "clip")), torch.nn.Module.register_parameter
    start = threading.Barrier(4)

    def made(_) -> tuple[np.ndarray, float]:
        start.wait()
        with Engine.from_pretrained(folder, clip=clip, steps=4, slots=1) as engine:
            (sample,) = engine.run([request()])
        return sample.image, sample.text_score

    with ThreadPoolExecutor(4) as pool:
        (image, score), *others = pool.map(made, range(4))
    for other, its_score in others:
        np.testing.assert_array_equal(other, image)
        assert its_score == score
    assert torch.nn.Module.register_parameter is build


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"level": 100}, "level=100 .* 0 to 99"),
        ({"level": -1}, "level=-1"),
        ({"level": 0.5}, "level=0.5"),
        ({"level": True}, "level=True"),
        ({"noise_seed": 2**32}, "32-bit"),
        ({"noise_seed": -1}, "32-bit"),
        ({"image": np.zeros((8, 8), np.uint8)}, r"shape \[8, 8\]"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "float32"),
        ({"image": "cat.jpg"}, "is a str"),
        ({"size": (0, 8)}, "size="),
        ({"size": (64.0, 64)}, "size="),
        ({"size": 64}, "size="),
        ({"size": (10**6, 10**6)}, "size=.* more than 64,000,000 pixels: ask for a smaller image"),
        ({"size": (8, 2**60)}, "more than 64,000,000 pixels"),
        ({"text_guidance": "7"}, "text_guidance='7'"),
        ({"text_guidance": float("nan")}, "text_guidance=nan"),
        ({"text_guidance": 10**400}, "is not a finite number"),
        ({"text_guidance": np.complex64(1)}, "is not a finite number"),
        ({"prompt": "caf\udce9"}, "not valid Unicode"),
        ({"score_text": 7}, "score_text=7"),
        ({"prompt": None}, "prompt=None is not text"),
        ({"negative_prompt": 3}, "negative_prompt=3"),
    ],
)
def test_a_nonsense_request_is_refused_when_it_is_made(fields, message):
    valid = {"image": Image.new("RGB", (8, 8)), "prompt": "a cat", "level": 0, "noise_seed": 0}
    with pytest.raises(DisclError, match=message):
        Request(**{**valid, **fields})


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pil_modes_become_rgb(folder, mode):
    source = random_image(64, 64, seed=3).convert(mode)
    with Engine.from_pretrained(folder, steps=4) as engine:
        a, b = engine.run([Request(source, "x", 50, 1), Request(source.convert("RGB"), "x", 50, 1)])
    np.testing.assert_array_equal(a.image, b.image)


def test_sixteen_bits_are_scaled_and_alpha_lies_over_white():
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    rgb = Request(Image.fromarray(ramp), "x", 50, 1).rgb()
    np.testing.assert_allclose(np.asarray(rgb)[..., 0], ramp / 257, atol=0.51)
    clear = Request(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "x", 50, 1).rgb()
    assert clear.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("modes", [("LA",), ("LA", "La"), ("LA", "RGBA"), ("LA", "RGBA", "RGBa")], ids="-".join)
def test_every_alpha_mode_lies_over_white(modes):
    grey, alpha = np.meshgrid(np.arange(256), np.arange(256))
    image = Image.fromarray(np.stack([grey, alpha], axis=-1).astype(np.uint8), "LA")
    for mode in modes[1:]:
        image = image.convert(mode)
    over_white = grey * alpha / 255 + 255 - alpha
    rgb = np.asarray(Request(image, "x", 50, 1).rgb())
    np.testing.assert_allclose(rgb, np.stack([over_white] * 3, axis=-1), atol=2)  # premultiplied ones round three times


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint32, np.uint64, np.uint8])
def test_numpy_integers_are_seeds_and_levels(folder, integer):
    with Engine.from_pretrained(folder, steps=4) as engine:
        a, b = engine.run([request(level=50), Request(random_image(64, 64, seed=1), "a cat", integer(50), integer(7))])
    np.testing.assert_array_equal(a.image, b.image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "dtype='float64'.*float32"),
        ({"backend": "jax"}, "backend='jax'.*torch"),
        ({"mode": "fast"}, "mode='fast'.*exact"),
        ({"solver": "heun"}, "solver='heun'.*ddim"),
        ({"slots": 0}, "slots=0"),
        ({"slots": "many"}, "or 'auto'"),
        ({"steps": 0}, "steps=0"),
        ({"device": "potato"}, "device='potato'"),
        ({"device": "meta"}, "device='meta'.*does not run on"),
        ({"device": None}, "device=None"),
        ({"loras": None}, "give lists of paths"),
        ({"rejection": {"limit": 0.02}}, "rejection"),
        ({"path": None}, "path=None"),
        ({"clip": 5}, "clip=5"),
        ({"cache": 5}, "cache=5"),
        ({"score_prompt": 5}, "score_prompt=5"),
        ({"size": "64x64"}, "size='64x64'"),
        ({"size": (8001, 8000)}, "more than 64,000,000 pixels"),
    ],
)
def test_unknown_options_name_the_known_ones(folder, options, message):
    with pytest.raises(DisclError, match=message):
        Engine.from_pretrained(**{"path": folder, **options})


def test_a_clip_may_be_a_path(folder, tmp_path):
    with Engine.from_pretrained(folder, clip=tiny_clip(tmp_path / "clip"), steps=4, slots=1) as engine:
        assert next(iter(engine.run([request()]))).text_score is not None


def test_what_cannot_be_loaded_is_named(copy, tmp_path):
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        Engine.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no model_index.json"):
        Engine.from_pretrained(tmp_path)
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        Engine.from_pretrained(copy)
    shutil.rmtree(copy / "unet")
    with pytest.raises(ModelError, match="lacks unet"):
        Engine.from_pretrained(copy)
