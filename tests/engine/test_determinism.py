"""At one slot count a sample is the same to the last bit, alone, in a crowd, in any order, in a second run."""

import random

import numpy as np
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet

from discl import Engine, Request
from discl.engine.compiled import prepared
from discl.engine.condition import Condition
from discl.engine.denoiser import torch_denoiser
from discl.engine.pretrained import load_model
from discl.engine.reproducible import make_rowwise
from tests.engine.oracle import random_image
from tests.tiny import tiny_clip, tiny_lcm, tiny_sd, tiny_sd2, tiny_sdxl


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return tiny_sd(root / "sd", seed=3), str(tiny_clip(root / "clip", seed=3))


def crowd(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    images = [random_image(*rng.choice([(64, 64), (72, 48)]), seed=i) for i in range(5)]
    return [
        Request(
            rng.choice(images),
            f"a {rng.choice('abc')}",
            rng.choice((0, 10, 30, 50, 90)),
            rng.randrange(2**32),
            key=str(i),
        )
        for i in range(count)
    ]


def by_key(samples) -> dict:
    return {s.request.key: s for s in samples}


@pytest.mark.parametrize(
    ("slots", "solver"),
    [(1, "ddim"), (3, "ddim"), (8, "ddim"), (3, "euler-ancestral"), (3, "dpmpp-2m"), (4, "lcm")],
)
@pytest.mark.parametrize("seed", [11])
def test_bit_equal_at_one_slot_count(models, slots, solver, seed):
    """Also where a request carries a memory of its last step, or draws noise while it runs."""
    requests = crowd(24, seed)
    folder, clip = models
    with Engine.from_pretrained(folder, clip=clip, slots=slots, steps=10, solver=solver) as engine:
        together = by_key(engine.run(requests))
        shuffled = by_key(engine.run(random.Random(seed).sample(requests, len(requests))))
        alone = by_key(sample for request in requests[:6] for sample in engine.run([request]))
    with Engine.from_pretrained(folder, clip=clip, slots=slots, steps=10, solver=solver) as engine:
        tail = by_key(engine.run(requests[15:]))
    for other in (shuffled, alone, tail):
        for key, sample in other.items():
            np.testing.assert_array_equal(sample.image, together[key].image)
            np.testing.assert_array_equal(sample.embedding, together[key].embedding)
            assert sample.text_score == together[key].text_score
            assert sample.image_score == together[key].image_score


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("slots", "channels"), [(3, (64, 96)), (5, (64, 96)), (16, (32, 64))])
def test_bit_equal_on_threads_with_a_wider_model(tmp_path, two_threads, slots, channels):
    """Small odd batches of wide layers are where a threaded matrix product treats its last rows differently."""
    folder = tiny_sd(tmp_path / "sd", seed=5, channels=channels)
    clip = str(tiny_clip(tmp_path / "clip", seed=5))
    requests = crowd(24, seed=13)
    with Engine.from_pretrained(folder, clip=clip, slots=slots, steps=5) as engine:
        requests = [r for r in requests if r.level < 80]
        together = by_key(engine.run(requests))
        backwards = by_key(engine.run(requests[::-1]))
    for key, sample in backwards.items():
        np.testing.assert_array_equal(sample.image, together[key].image)
        np.testing.assert_array_equal(sample.embedding, together[key].embedding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("make", [tiny_sd, tiny_sd2, tiny_sdxl, tiny_lcm])
def test_every_place_of_a_batch_computes_the_same_bits(tmp_path, two_threads, make, dtype):
    model = load_model(make(tmp_path / "model", seed=5, channels=(32, 64)), torch.device("cpu"), dtype)
    one = model.condition(model.encode_text("a cat", False), 64, 64, 5.0, False)
    denoise = torch_denoiser(model)
    decode = prepared(lambda z: model.vae.decode(z).sample, torch.device("cpu"), compiled=False)
    for latent in ((8, 8), (6, 9), (5, 7), (2, 3)):
        for rows in (4, 8, 12, 16, 32):
            x = torch.randn(1, 4, *latent, generator=torch.Generator().manual_seed(rows))
            x = x.expand(rows, -1, -1, -1).contiguous()
            batch = Condition(*(None if part is None else part.expand(rows, *part.shape).contiguous() for part in one))
            with torch.no_grad():
                results = denoise(x, torch.full((rows,), 500.0), batch), decode(x[:8].to(model.vae.dtype))
            for result in results:
                assert torch.equal(result, result[:1].expand_as(result)), (latent, rows)


def resnet() -> torch.nn.Module:
    return ModifiedResNet((1, 1, 1, 1), output_dim=32, heads=4, image_size=64, width=16)


def map_pooled() -> torch.nn.Module:
    """As SigLIP's: one learned query looks at all tokens."""
    return timm.create_model("vit_tiny_patch16_224", img_size=64, global_pool="map", class_token=False, depth=2)


@pytest.mark.parametrize("tower", [resnet, map_pooled])
@pytest.mark.parametrize("rows", [4, 8, 16])
def test_every_place_of_a_clip_batch_computes_the_same_bits(two_threads, tower, rows):
    torch.manual_seed(rows)
    model = tower().eval()
    make_rowwise(model)
    x = torch.randn(1, 3, 64, 64).expand(rows, -1, -1, -1).contiguous()
    with torch.no_grad():
        out = prepared(model, torch.device("cpu"), compiled=False)(x)
    assert torch.equal(out, out[:1].expand_as(out))


def test_across_slot_counts_within_one_grey_value(models):
    requests = crowd(16, seed=12)
    images = []
    for slots in (1, 5, 16):
        with Engine.from_pretrained(models[0], slots=slots, steps=10) as engine:
            images.append({s.request.key: s.image.astype(int) for s in engine.run(requests)})
    for key in images[0]:
        for other in images[1:]:
            assert np.abs(other[key] - images[0][key]).max() <= 1


def test_an_endless_source_yields_as_it_goes_and_can_be_left(models):
    image = random_image(64, 64, seed=0)
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield Request(image, "a cat", 50, noise_seed=read)

    with Engine.from_pretrained(models[0], slots=2, steps=4) as engine:
        run = engine.run(endless())
        first = [next(run).request.noise_seed for _ in range(5)]
        run.close()
        assert len(set(first)) == 5
        assert read < 40
        again = list(engine.run([Request(image, "a cat", 50, noise_seed=1)]))
    assert [s.status for s in again] == ["ok"]
