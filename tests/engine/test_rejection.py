"""Early rejection on tiny models: traced, calibrated, judged. Verdicts are those of the recorded traces."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from discl import DisclError, Engine, Request
from discl.engine.rejection import Judge, LatentTracer, Rule, Tracer, decoder
from discl.engine.rejection import evidence as evidence_module
from discl.engine.rejection.decoder import SmallDecoder, fit_decoder
from discl.engine.rejection.evidence import LOOK, evidence, expectation, look
from discl.engine.rejection.logistic import Logistic
from discl.engine.rejection.recording import distil, gather
from discl.engine.rejection.rule import Check, LevelRule
from tests.engine.oracle import random_image
from tests.engine.rejection_samples import rejected
from tests.tiny import tiny_clip, tiny_sd

STEPS, LEVELS, TEXTS, COUNT = 8, (0, 30), ("a fox", "a cat", "a hat"), 32


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return tiny_sd(root / "sd", seed=21, vae_levels=3), str(tiny_clip(root / "clip", seed=21))


def wishes(count: int, seed: int = 0, **fields) -> list[Request]:
    rng = random.Random(seed)
    images = [random_image(32, 32, seed=number) for number in range(5)]
    return [
        Request(
            images[number % 5],
            rng.choice(TEXTS),
            rng.choice(LEVELS),
            rng.randrange(2**32),
            key=f"{number:032x}",
            source_id=str(number % 5),
            **fields,
        )
        for number in range(count)
    ]


def open_engine(models, slots: int = 4, **options) -> Engine:
    return Engine.from_pretrained(models[0], clip=models[1], steps=STEPS, slots=slots, **options)


def by_key(samples) -> dict:
    return {sample.request.key: sample for sample in samples}


@pytest.fixture(scope="module")
def traced(models):
    """Samples of some requests that a tracer has looked at, and an untrained decoder."""
    torch.manual_seed(0)
    small = SmallDecoder(4, 4).requires_grad_(False)
    with open_engine(models, rejection=Tracer(small, TEXTS)) as engine:
        return small, by_key(engine.run(wishes(COUNT))), engine.signature


@pytest.fixture(scope="module")
def rule(models, traced) -> Rule:
    """Two checks, predictors fitted to the traces, half of the samples below the median score accepted; about a third
    of those looked at is given up."""
    small, samples, signature = traced
    threshold = float(np.median([sample.text_score for sample in samples.values()]))
    empty = Rule(
        signature, 0.1, 0.9, {"default": threshold, "classes": {}, "levels": {}}, TEXTS, {}, 0.0, small, {}
    )  # fmt: skip
    with open_engine(models) as engine:
        traces = gather(engine, samples.values(), lambda sample: threshold)
    levels = {}
    for level, each in traces.items():
        given = each.source, np.zeros(len(each)), each.threshold
        first, later = each.checks[0], each.checks[2]
        histories = [first], [first, later]
        chances = [Logistic.fit(*evidence(each.at(steps), *given), each.accepted) for steps in histories]
        expected = Logistic.fit(*expectation(*given), each.accepted)
        gate = float(np.quantile(expected(expectation(*given)[0]), 0.8))
        checks = Check(first, gate, chances[0]), Check(later, math.inf, chances[1])
        level_rule = LevelRule(level, each.steps, expected, checks, None, {})
        values = replace(empty, levels={level: level_rule}).decide(each).value.min(1)
        levels[level] = replace(level_rule, bound=float(np.quantile(values[np.isfinite(values)], 0.35)))
    return replace(empty, levels=levels)


def test_a_look_is_four_plain_numbers(traced, models):
    """Text score, margin, image score of the small decoder's image; the logarithm of the gap."""
    _, samples, _ = traced
    with open_engine(models) as engine:
        scorer = engine.scorer
        embeddings = torch.nn.functional.normalize(torch.randn(3, scorer.width), dim=1)
        texts = scorer.embed_texts(TEXTS)
        own = torch.eye(3, dtype=torch.bool)
        rows = look(embeddings, texts, texts, own, texts.flip(0), torch.tensor([0.0, 1.0, math.e])).numpy()
    cosines = (embeddings @ texts.T).numpy()
    for row in range(3):
        others = np.delete(cosines[row], row)
        expected = [cosines[row, row], cosines[row, row] - others.max(), cosines[row, 2 - row]]
        np.testing.assert_allclose(rows[row, :3], expected, atol=1e-6)
    np.testing.assert_allclose(rows[:, 3], [math.log(1e-12), 0, 1], rtol=1e-6)
    assert all(row.shape == (LOOK + 2,) for sample in samples.values() for _, row in sample.trace)


@pytest.mark.parametrize("count", [1, 5, 32])
def test_a_look_does_not_depend_on_how_many_are_compared_at_once(monkeypatch, count):
    rng = torch.Generator().manual_seed(count)
    embeddings, sources, others = (torch.randn(rows, 48, generator=rng) for rows in (count, count, 9))
    texts, own, gaps = others[[0] * count], torch.arange(9).eq(0).expand(count, 9), torch.rand(count, generator=rng)
    together = look(embeddings, texts, others, own, sources, gaps)
    monkeypatch.setattr(evidence_module, "AT_ONCE", 0)
    torch.testing.assert_close(look(embeddings, texts, others, own, sources, gaps), together, rtol=0, atol=0)
    for row in range(count):
        alone = (part[row : row + 1] for part in (embeddings, texts))
        rest = (part[row : row + 1] for part in (own, sources, gaps))
        torch.testing.assert_close(look(*alone, others, *rest)[0], together[row], rtol=0, atol=0)


def test_verdicts_are_those_of_the_recorded_traces(models, traced, rule):
    _, samples, _ = traced
    with open_engine(models) as engine:
        traces = gather(engine, samples.values(), lambda sample: rule.threshold_of(None, sample.request.level))
        engine.reject_by(engine.judge(rule))
        judged = by_key(engine.run(wishes(COUNT)))
    gone = {key for each in traces.values() for key in each.key[rejected(rule, each)].tolist()}
    assert 3 < len(gone) < 29
    assert {key for key, sample in judged.items() if sample.status == "rejected-early"} == gone
    for key, sample in judged.items():
        if key in gone:
            assert sample.image is None and sample.text_score is None
            assert f"step {sample.rejected_at} of " in sample.reason and "below the bound" in sample.reason
        else:
            np.testing.assert_array_equal(sample.image, samples[key].image)
            assert sample.text_score == samples[key].text_score
    assert engine.stats.unet_evaluations < 2 * sum(STEPS * (100 - each.level) // 100 for each in wishes(COUNT))


def verdicts(models, rule, requests, slots=4) -> dict:
    with open_engine(models, slots) as engine:
        engine.reject_by(engine.judge(rule))
        return {s.request.key: (s.status, s.rejected_at, s.reason) for s in engine.run(requests)}


@pytest.mark.parametrize("slots", [4, 40])  # previews are judged by 4 and by 20
def test_verdicts_do_not_depend_on_neighbours_order_or_restarts(models, rule, slots):
    requests = wishes(COUNT)
    together = verdicts(models, rule, requests, slots)
    assert verdicts(models, rule, requests[::-1], slots) == together
    assert verdicts(models, rule, requests[20:], slots) == {r.key: together[r.key] for r in requests[20:]}
    assert verdicts(models, rule, requests[7:8], slots) == {requests[7].key: together[requests[7].key]}


@pytest.mark.parametrize("slots", [1, 16])
def test_the_same_keys_are_given_up_at_any_slot_count(models, rule, slots):
    requests = wishes(COUNT)
    ours, theirs = (verdicts(models, rule, requests, count) for count in (4, slots))
    assert {key: value[:2] for key, value in ours.items()} == {key: value[:2] for key, value in theirs.items()}


def test_control_requests_are_never_given_up_and_say_what_would_have_been(models, rule):
    free = verdicts(models, rule, wishes(COUNT))
    controls = verdicts(models, rule, wishes(COUNT, control=True))
    assert {status for status, _, _ in controls.values()} == {"ok"}
    assert {key: at for key, (_, at, _) in controls.items()} == {key: at for key, (_, at, _) in free.items()}
    for key, (_, at, reason) in controls.items():
        assert reason == (f"control, would have been given up at {free[key][2]}" if at else "")


def test_levels_without_a_bound_or_a_rule_are_not_looked_at(models, rule):
    unbound = {0: replace(rule.levels[0], bound=None)}
    with open_engine(models) as engine:
        engine.reject_by(engine.judge(replace(rule, levels=unbound)))
        samples = list(engine.run(wishes(8)))
    assert {sample.status for sample in samples} == {"ok"} and engine.stats.previews == 0


def test_a_rules_file_opens_with_the_engine(models, rule, tmp_path):
    (tmp_path / "rule.json").write_bytes(rule.encoded())
    with open_engine(models, rejection=tmp_path / "rule.json") as engine:
        assert isinstance(engine.rejection, Judge)
        statuses = {sample.status for sample in engine.run(wishes(COUNT))}
    assert statuses == {"ok", "rejected-early"}


def test_a_rule_for_something_else_is_refused(models, rule):
    with open_engine(models, text_guidance=3.0) as engine, pytest.raises(DisclError, match=r"text_guidance.*calibrate"):
        engine.judge(rule)


def test_the_small_decoder_learns_the_autoencoder(models, monkeypatch):
    monkeypatch.setattr(decoder, "STEPS", 150)
    with open_engine(models, slots=8, rejection=LatentTracer()) as engine:
        samples = list(engine.run(wishes(24)))
        small, again = (distil(engine, samples) for _ in range(2))
        assert all(map(torch.equal, small.parameters(), again.parameters()))
        latents = torch.from_numpy(np.stack([row[2:] for s in samples for _, row in s.trace])).unflatten(1, (4, 8, 8))
        true = torch.cat([engine.networks().autoencoder.decode(part)[0] for part in latents.split(8)]).detach()
    assert small.cell == 4
    ours = small.pixels(latents)
    assert ours.shape == true.shape and ours.dtype == torch.uint8
    error, spread = (ours.float() - true.float()).square().mean(), true.float().var((0, 1, 2)).mean()
    assert error < 0.8 * spread
    again = SmallDecoder.from_json(small.to_json())
    assert torch.equal(again.pixels(latents), ours)


def test_the_small_decoder_fits_large_latents_by_crops(monkeypatch):
    """Its pixels are a nearest-neighbour picture of the first channels: found from crops, true on the whole."""
    monkeypatch.setattr(decoder, "STEPS", 400)
    rng = torch.Generator().manual_seed(0)
    latents = torch.rand(8, 4, 24, 20, generator=rng)
    images = (latents[:, :3] * 255).to(torch.uint8).repeat_interleave(2, 2).repeat_interleave(2, 3).permute(0, 2, 3, 1)
    small = fit_decoder(latents, images)
    assert small.cell == 2
    assert (small.pixels(latents).float() - images.float()).abs().mean() < 16  # 64 for grey


def test_nothing_to_learn_from_is_an_error(models):
    with open_engine(models) as engine, pytest.raises(DisclError, match="none of its first samples"):
        distil(engine, [])
