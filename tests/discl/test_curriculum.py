"""Policies, epochs and the mixing rule, against hand-worked numbers and set algebra."""

import logging
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from discl.curriculum import Curriculum, Mix, mix
from discl.errors import ConfigError
from discl.policies import POLICIES, Stage

LEVELS = (0, 10, 30, 50)


def dataset(nontail=40, tail=5, synthetic=(6, 6, 6, 6), levels=LEVELS):
    """Class 0 is the rest, class 1 the tail; `synthetic` images per level."""
    real, made = nontail + tail, sum(synthetic)
    tail_rows = np.arange(real + made) >= nontail
    return SimpleNamespace(
        n_real=real,
        class_names=("rest", "tail"),
        labels=tail_rows.astype(np.int64),
        levels=np.concatenate([np.full(real, 100), np.repeat(levels, synthetic)]).astype(np.int64),
        is_synth=np.arange(real + made) >= real,
        tail=tail_rows & (np.arange(real + made) < real),
    )


def config(policy="diverse-to-specific", **keys):
    defaults = {"epochs": 65, "curriculum_epochs": 60, "tail_share": "auto", "nontail_share": 0.5}
    return SimpleNamespace(policy=policy, **(defaults | {"synthetic_scale": 3.0, "level": None} | keys))


def levels_of(policy, epochs=8, levels=LEVELS, **keys):
    return [POLICIES[policy](Stage(levels, epoch, epochs, **keys)) for epoch in range(epochs)]


def test_the_papers_imagenet_lt_epoch():
    """Paper 3.4: 39,652 images, 310 steps at batch 128."""
    mixed = mix(114_203, 1_643, Fraction("0.136"), Fraction("0.3"), Fraction(3))
    assert mixed == Mix(34_260, 5_392)
    assert mixed.nontail + mixed.tail == 39_652
    assert -(-39_652 // 128) == 310


def test_synthetic_scale_caps_the_tail_and_the_share_still_holds():
    mixed = mix(114_203, 1_643, Fraction("0.136"), Fraction(1), Fraction(3))
    assert mixed.tail == 4 * 1_643
    assert mixed.nontail / 114_203 == pytest.approx(0.366, abs=5e-4)  # paper 3.4's r for k = 3


@pytest.mark.parametrize(("k", "r"), [(1, 0.183), (2, 0.274), (4, 0.457), (5, 0.548)])
def test_the_papers_shares_for_other_scales(k, r):
    mixed = mix(114_203, 1_643, Fraction("0.136"), Fraction(1), Fraction(k))
    assert mixed.nontail / 114_203 == pytest.approx(r, abs=5e-4)


def test_a_small_share_of_the_rest_is_raised_to_hold_every_tail_image():
    mixed = mix(1000, 50, Fraction("0.2"), Fraction("0.01"), Fraction(3))
    assert mixed == Mix(200, 50)


@pytest.mark.parametrize("seed", range(30))
def test_mixing_laws(seed):
    random = np.random.default_rng(seed)
    nontail, tail = int(random.integers(1, 5000)), int(random.integers(1, 500))
    share = Fraction(int(random.integers(1, 100)), 100)
    scale = Fraction(int(random.integers(0, 50)), 10)
    mixed = mix(nontail, tail, share, Fraction(int(random.integers(1, 101)), 100), scale)
    assert tail <= mixed.tail <= tail + scale * tail
    assert 0 <= mixed.nontail <= nontail
    wanted = share / (1 - share) * mixed.nontail
    if mixed.nontail < nontail:  # otherwise the rest cannot give more
        assert abs(mixed.tail - wanted) <= 1 + share / (1 - share)


def test_degenerate_pools():
    half = Fraction(1, 2)
    assert mix(0, 10, half, half, Fraction(3)) == Mix(0, 40)
    assert mix(10, 0, half, half, Fraction(3)) == Mix(10, 0)


def test_ascending_levels_in_equal_blocks():
    blocks = [level for (level,) in levels_of("diverse-to-specific", epochs=60)]
    assert blocks == [0] * 15 + [10] * 15 + [30] * 15 + [50] * 15
    assert levels_of("specific-to-diverse", epochs=60) == levels_of("diverse-to-specific", epochs=60)[::-1]


def test_the_remainder_goes_to_the_earliest_blocks():
    blocks = [level for (level,) in levels_of("diverse-to-specific", epochs=10)]
    assert [blocks.count(level) for level in LEVELS] == [3, 3, 2, 2]
    assert [level for (level,) in levels_of("diverse-to-specific", epochs=2)] == [0, 10]


def test_the_other_policies():
    assert set(levels_of("all-level")) == {LEVELS}
    assert set(levels_of("text-only")) == {(0,)}
    assert set(levels_of("fixed", level=30)) == {(30,)}
    assert levels_of("recursive") == [(0,), (10,), (30,), (50,), (30,), (10,), (0,), (10,)]
    assert levels_of("recursive", levels=(10,)) == [(10,)] * 8
    assert levels_of("shrink", epochs=4) == [LEVELS, LEVELS[1:], LEVELS[2:], LEVELS[3:]]
    assert set(levels_of("real-only")) == {()}


def test_random_levels_depend_on_seed_and_epoch_alone():
    first = levels_of("random", epochs=400, seed=1)
    assert first == levels_of("random", epochs=400, seed=1)
    assert first != levels_of("random", epochs=400, seed=2)
    counts = [first.count((level,)) for level in LEVELS]
    assert min(counts) > 60, counts  # 100 expected


def test_adaptive_takes_the_largest_gain_and_real_images_at_100():
    gains = {0: 0.1, 10: 0.3, 30: 0.3, 100: 0.2}
    assert POLICIES["adaptive"](Stage(LEVELS, 3, 8, progress=gains)) == (10,)
    assert POLICIES["adaptive"](Stage(LEVELS, 3, 8, progress={**gains, 100: 0.9})) == ()
    assert POLICIES["adaptive"](Stage(LEVELS, 0, 8)) == (0,)


def test_levels_that_the_spectrum_lacks():
    with pytest.raises(ConfigError, match="'text-only' needs level 0"):
        levels_of("text-only", levels=(10, 30))
    with pytest.raises(ConfigError, match=r"curriculum\.level = 20 is not among"):
        levels_of("fixed", level=20)


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"fixed"}))
def test_every_epoch_holds_what_algorithm_1_says(policy):
    data = dataset()
    curriculum = Curriculum(data, config(policy, epochs=10, curriculum_epochs=8), seed=0)
    for epoch in range(10):
        plan = curriculum.epoch_plan(epoch)
        pools = {pool.name: pool for pool in plan.pools}
        assert plan.total == curriculum.mix.nontail + curriculum.mix.tail == 40
        assert set(data.labels[pools["nontail"].ids]) == {0}
        assert pools["tail"].ids.tolist() == [40, 41, 42, 43, 44]
        if plan.levels:
            assert pools["tail"].quota == 5
            assert pools["synthetic"].quota == 15
            assert set(data.levels[pools["synthetic"].ids]) == set(plan.levels)
        else:
            assert pools["tail"].quota == 20
            assert "synthetic" not in pools
        assert bool(plan.levels) == (epoch < 8 and policy != "real-only")


def test_a_curriculum_longer_than_the_training_is_spread_over_the_epochs_there_are(caplog):
    curriculum = Curriculum(dataset(), config(epochs=10, curriculum_epochs=60), seed=0)
    levels = [curriculum.epoch_plan(epoch).levels for epoch in range(10)]
    assert levels == [(0,)] * 3 + [(10,)] * 3 + [(30,)] * 2 + [(50,)] * 2
    assert caplog.text.count("curriculum_epochs = 60 but there are only curriculum.epochs = 10") == 1
    Curriculum(dataset(), config("real-only", epochs=10, curriculum_epochs=60), seed=0)
    Curriculum(dataset(), config(epochs=60, curriculum_epochs=60), seed=0)
    assert len(caplog.records) == 1


def test_the_natural_policy_draws_as_many_images_from_the_natural_distribution():
    curriculum = Curriculum(dataset(), config("none"), seed=0)
    (pool,) = curriculum.epoch_plan(0).pools
    assert pool.ids.tolist() == list(range(45))
    assert pool.quota == Curriculum(dataset(), config("all-level"), seed=0).epoch_plan(0).total


def test_a_level_without_accepted_images_repeats_real_ones_and_says_so(caplog):
    curriculum = Curriculum(dataset(synthetic=(0, 6, 6, 6)), config(), seed=0, levels=LEVELS)
    with caplog.at_level(logging.WARNING):
        plan = curriculum.epoch_plan(0)
    assert {pool.name: pool.quota for pool in plan.pools} == {"nontail": 20, "tail": 20}
    assert "no accepted image at level 0" in caplog.text


def test_shares():
    assert Curriculum(dataset(), config(), 0).tail_share == Fraction(1, 2)
    assert Curriculum(dataset(), config(tail_share=0.1), 0).tail_share == Fraction(1, 10)
    with pytest.raises(ConfigError, match="tail_share = 0"):
        _ = Curriculum(dataset(), config(tail_share=0.0), 0).tail_share


def test_auto_share_where_tail_and_rest_share_classes():
    data = dataset()
    data.labels[:] = 0
    assert Curriculum(data, config(), 0).tail_share == Fraction(20, 60)


def test_what_a_policy_needs():
    with pytest.raises(ConfigError, match="expected one of diverse-to-specific"):
        Curriculum(dataset(), config("ascending"), 0)
    empty = dataset(synthetic=(0, 0, 0, 0))
    with pytest.raises(ConfigError, match="needs accepted synthetic images and there are none"):
        Curriculum(empty, config(), 0)
    assert Curriculum(empty, config("real-only"), 0).epoch_plan(0).total == 40


def test_images_without_a_level_are_a_group_of_their_own(caplog):
    """-1: the index has none for them. They were counted with the highest level, whose rows they are not."""
    data = dataset(synthetic=(3, 6, 7, 8), levels=(-1, 0, 10, 30))
    stages = Curriculum(data, config(epochs=3, curriculum_epochs=3), 0, levels=(0, 10, 30))
    assert "without a level" in caplog.text
    for epoch, level in enumerate((0, 10, 30)):
        made = next(pool for pool in stages.epoch_plan(epoch).pools if pool.name == "synthetic")
        assert np.asarray(made.ids).tolist() == np.flatnonzero(data.levels == level).tolist()
