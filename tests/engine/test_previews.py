"""Verdicts part-way: they depend on the request alone, cost no step too many, and touch nobody else."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from discl import DisclError, Engine, Request
from discl.engine.networks import PREVIEW_BATCH, micro_batch, preview_batch
from discl.engine.reproducible import stable_rows
from tests.engine.oracle import random_image
from tests.tiny import tiny_clip, tiny_sd

STEPS, SLOTS = 10, 4


class BelowThreshold:
    """Rejects where the decoded preview's text score is below a threshold; its second feature is the guidance gap."""

    def __init__(self, threshold: float):
        self.threshold = threshold

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        return tuple(done for done in (2, 4) if done < steps)

    def wants(self, works, steps):
        return [True] * len(works)

    def features(self, networks, scorer, works, x0, gaps):
        assert len(works) == len(x0) == len(gaps) == networks.preview_batch
        pixels = torch.cat([networks.autoencoder.decode(part)[0] for part in x0.split(networks.autoencoder.batch)])
        texts = scorer.embed_texts([work.request.prompt for work in works])
        return torch.stack([(scorer.embed_images(pixels) * texts).sum(1), gaps], dim=1)

    def verdicts(self, works, steps, features):
        for work, done, row in zip(works, steps, features, strict=True):
            assert work.trace[-1][0] == done and np.array_equal(work.trace[-1][1], row)
        rows = zip(steps, features, strict=True)
        return [f"step {done}: {row[0]} is low" if row[0] < self.threshold else "" for done, row in rows]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return tiny_sd(root / "sd", seed=12), str(tiny_clip(root / "clip", seed=12))


def crowd(count: int, seed: int, control: float = 0.0) -> list[Request]:
    rng = random.Random(seed)
    images = [random_image(*rng.choice([(64, 64), (64, 64), (72, 48)]), seed=i) for i in range(6)]
    return [
        Request(
            rng.choice(images),
            f"a {rng.choice('abc')}",
            rng.choice((0, 30, 50, 80)),
            rng.randrange(2**32),
            key=str(i),
            control=rng.random() < control,
            text_guidance=rng.choice([7.5, 1.0]),
        )
        for i in range(count)
    ]


def run(models, requests, rejection=None, slots=SLOTS):
    folder, clip = models
    with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=slots, rejection=rejection) as engine:
        samples = {sample.request.key: sample for sample in engine.run(requests)}
    assert samples.keys() == {request.key for request in requests}
    return samples, engine


@pytest.fixture(scope="module")
def threshold(models) -> float:
    """The median first score: about half are rejected."""
    samples, _ = run(models, crowd(40, 1), BelowThreshold(-2.0))
    return float(np.median([sample.trace[0][1][0] for sample in samples.values() if sample.trace]))


def statuses(samples) -> dict:
    return {key: (sample.status, sample.rejected_at) for key, sample in samples.items()}


def test_those_who_stay_are_untouched_and_those_who_go_cost_less(models, threshold):
    requests = crowd(40, 1)
    plain, without = run(models, requests)
    samples, engine = run(models, requests, BelowThreshold(threshold))
    gone = {key for key, sample in samples.items() if sample.status == "rejected-early"}
    assert 8 <= len(gone) <= 32
    expected = 0
    for request in requests:
        sample, steps = samples[request.key], STEPS * (100 - request.level) // 100
        if request.key in gone:
            assert sample.image is sample.embedding is sample.text_score is None
            assert sample.rejected_at < steps and f"step {sample.rejected_at}:" in sample.reason
        else:
            np.testing.assert_array_equal(sample.image, plain[request.key].image)
            assert sample.text_score == plain[request.key].text_score
        expected += (sample.rejected_at or steps) * (2 if request.text_guidance > 1 else 1)
    assert engine.stats.unet_evaluations == expected < without.stats.unet_evaluations
    assert engine.stats.samples == {"ok": 40 - len(gone), "rejected-early": len(gone)}
    assert engine.stats.previews == sum(len(sample.trace) for sample in samples.values())


def test_a_verdict_depends_on_its_request_alone(models, threshold):
    requests = crowd(40, 1)
    together, _ = run(models, requests, BelowThreshold(threshold))
    backwards, _ = run(models, requests[::-1], BelowThreshold(threshold))
    assert statuses(together) == statuses(backwards)
    for key, sample in together.items():
        for (steps, features), (steps_again, again) in zip(sample.trace, backwards[key].trace, strict=True):
            assert steps == steps_again
            np.testing.assert_array_equal(features, again)
    for request in requests[:5]:
        alone, _ = run(models, [request], BelowThreshold(threshold))
        assert statuses(alone)[request.key] == statuses(together)[request.key]


def test_control_requests_go_on_and_say_what_would_have_been(models, threshold):
    free, _ = run(models, crowd(40, 1), BelowThreshold(threshold))
    samples, _ = run(models, crowd(40, 1, control=1.0), BelowThreshold(threshold))
    assert {sample.status for sample in samples.values()} == {"ok"}
    assert all(sample.control for sample in samples.values())
    for key, sample in samples.items():
        assert sample.rejected_at == free[key].rejected_at
        assert [steps for steps, _ in sample.trace] == [done for done in (2, 4) if done < steps_of(sample.request)]


def steps_of(request: Request) -> int:
    return STEPS * (100 - request.level) // 100


def test_the_gap_is_that_of_the_last_step(models):
    """Unguided requests have none; guided ones have ||cond - uncond||^2 as the network gives it."""
    samples, _ = run(models, crowd(20, 3), BelowThreshold(-2.0))
    for sample in samples.values():
        for _, (_, gap) in sample.trace:
            assert gap == 0 if sample.request.text_guidance == 1.0 else gap > 0


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_rows_stay_full_while_verdicts_are_awaited(models, threshold, slots):
    requests = [replace(r, size=(64, 64)) for r in crowd(160, 4) if r.text_guidance > 1]
    samples, engine = run(models, requests, BelowThreshold(threshold), slots)
    assert {sample.status for sample in samples.values()} == {"ok", "rejected-early"}
    assert engine.stats.slot_occupancy > 0.9


def test_previews_never_take_the_places_that_fill_the_rows():
    """One batch gathers and one is under way, on places that others leave free; a batch is one whose rows are alike."""
    for slots in range(1, 200):
        batch = preview_batch(slots)
        assert batch == stable_rows(batch) and micro_batch(slots) <= batch <= PREVIEW_BATCH
        assert batch == micro_batch(slots) or 2 * batch <= slots
    assert preview_batch(64) == PREVIEW_BATCH == 32


@pytest.mark.parametrize("seed", range(3))
def test_out_of_memory_while_judging(models, threshold, seed):
    requests = crowd(40, 1)
    folder, clip = models
    rejection, rng, failed = BelowThreshold(threshold), random.Random(seed), []
    with Engine.from_pretrained(folder, clip=clip, steps=STEPS, slots=SLOTS, rejection=rejection) as engine:
        features = rejection.features

        def fails(*args):
            if engine._capacity.slots > 1 and rng.random() < 0.3:
                failed.append(1)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return features(*args)

        rejection.features = fails
        engine._capacity.patience = 10
        samples = list(engine.run(requests))
    assert failed, f"seed {seed}"
    assert sorted(sample.request.key for sample in samples) == sorted(request.key for request in requests)
    judges = {slots: run(models, requests, BelowThreshold(threshold), slots)[0] for slots in {s.slots for s in samples}}
    for sample in samples:
        judge = judges[sample.slots][sample.request.key]
        assert (sample.status, sample.rejected_at) == (judge.status, judge.rejected_at), f"seed {seed}"
        if sample.image is not None:
            np.testing.assert_array_equal(sample.image, judge.image)


def test_rejection_needs_a_scorer(models):
    with pytest.raises(DisclError, match="CLIP"):
        Engine.from_pretrained(models[0], rejection=BelowThreshold(0.0))
