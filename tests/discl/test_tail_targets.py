"""Synthetic budgets and the set algebra of Algorithms 1 and 2, for every policy and epoch on random data."""

from types import SimpleNamespace

import numpy as np
import pytest

from discl.curriculum import Curriculum
from discl.policies import POLICIES
from discl.sampler import CurriculumSampler
from tests.discl.test_curriculum import LEVELS, config


def random_dataset(seed):
    """Some classes are the rest, some the tail; levels hold different numbers of images."""
    random = np.random.default_rng(seed)
    counts = np.concatenate([random.integers(20, 60, 4), random.integers(1, 9, random.integers(1, 4))])
    labels = np.repeat(np.arange(len(counts)), counts)
    made = [
        (label, level) for label in range(4, len(counts)) for level in LEVELS for _ in range(random.integers(1, 12))
    ]
    made.sort(key=lambda one: one[::-1])
    n = len(labels)
    every = np.concatenate([labels, [label for label, _ in made]]).astype(np.int32)
    return SimpleNamespace(
        n_real=n,
        class_names=tuple(map(str, range(len(counts)))),
        labels=every,
        levels=np.concatenate([np.full(n, 100), [level for _, level in made]]).astype(np.int16),
        is_synth=np.arange(len(every)) >= n,
        tail=(every >= 4) & (np.arange(len(every)) < n),
    )


def drawn(data, policy, epoch, **keys):
    level = 30 if policy == "fixed" else None
    given = config(policy, epochs=7, curriculum_epochs=5, level=level, **keys)
    sampler = CurriculumSampler(data, given, 16, seed=1)
    sampler.epoch = epoch
    return sampler, np.concatenate(list(sampler))


@pytest.mark.parametrize("policy", [*sorted(POLICIES), "none"])
@pytest.mark.parametrize("seed", range(4))
def test_algorithm_1(policy, seed):
    """S_lambda, D_nh and every real tail image; after E_CL real images alone; the tail's share to one image."""
    data = random_dataset(seed)
    for epoch in range(7):
        sampler, rows = drawn(data, policy, epoch)
        plan, mix = sampler.plan(epoch), sampler.curriculum.mix
        real_tail = np.flatnonzero(data.tail)
        assert set(data.levels[rows]) <= {*plan.levels, 100}
        if policy == "none":
            assert len(set(rows)) == len(rows) <= data.n_real or len(rows) > data.n_real
            continue
        assert set(real_tail) <= set(rows), "every real tail image"
        tail = data.tail[rows] | data.is_synth[rows]
        assert (tail.sum(), (~tail).sum()) == (mix.tail, mix.nontail)
        assert (data.labels[rows][data.is_synth[rows]] >= 4).all()
        if epoch >= 5 or policy == "real-only":
            assert not data.is_synth[rows].any()
        share = sampler.curriculum.tail_share
        if mix.nontail < len(sampler.curriculum.nontail) and mix.tail > len(real_tail):
            assert abs(mix.tail - share * len(rows)) <= 1, "the share is exact to one image"


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("fill", ["share", "union", "balanced", "sqrt", "capped"])
def test_algorithm_2_leaves_real_tail_images_out_while_a_level_is_active(policy, fill):
    data = random_dataset(9)
    for epoch in (0, 4, 6):
        sampler, rows = drawn(data, policy, epoch, real_tail=False, fill=fill, fill_cap=30)
        if sampler.plan(epoch).levels:
            assert not data.tail[rows].any() and data.is_synth[rows].any()
        else:
            assert set(np.flatnonzero(data.tail)) <= set(rows)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fill", ["balanced", "sqrt", "capped"])
def test_targets_by_class(fill, seed):
    data = random_dataset(seed)
    own = np.bincount(data.labels[: data.n_real], minlength=len(data.class_names))
    most = own.max()
    for epoch in (0, 6):
        sampler, rows = drawn(data, "diverse-to-specific", epoch, fill=fill, fill_cap=17, nontail_share=1.0)
        counts = np.bincount(data.labels[rows], minlength=len(own))
        assert (counts[:4] == own[:4]).all()
        wanted = {
            "balanced": np.full(len(own), most),
            "sqrt": np.floor(np.sqrt(own * most)),
            "capped": np.minimum(np.ceil(4 * own), 17),
        }[fill]
        assert counts[4:].tolist() == np.maximum(wanted, own)[4:].tolist()
        assert len(rows) == sampler.curriculum.total
        assert sampler.class_counts(epoch) == pytest.approx(counts)


def test_a_cap_is_counted_exactly():
    """10 images and a tenth more are 11, though 10 * 1.1 is above it."""
    labels = np.repeat([0, 1], [40, 10])
    data = SimpleNamespace(
        n_real=50, class_names=("rest", "tail"), labels=labels, levels=np.full(50, 100), tail=labels == 1,
        is_synth=np.zeros(50, bool),
    )  # fmt: skip
    given = config("real-only", fill="capped", fill_cap=99, synthetic_scale=0.1)
    assert Curriculum(data, given, 0).targets.tolist() == [0, 11]


@pytest.mark.parametrize("fill", ["share", "union", "balanced", "sqrt", "capped"])
def test_every_policy_is_compared_at_equal_steps(fill):
    data = random_dataset(3)
    drawn_by = {
        policy: len(drawn(data, policy, epoch, fill=fill, fill_cap=17)[1])
        for policy in (*POLICIES, "none")
        for epoch in (0, 6)
    }
    assert len(set(drawn_by.values())) == 1, drawn_by


@pytest.mark.parametrize("seed", range(6))
def test_the_union_is_drawn_in_proportion(seed):
    """As many images as there are real ones, each part as large as its share of the union."""
    data = random_dataset(seed)
    for epoch in (0, 2):
        sampler, rows = drawn(data, "diverse-to-specific", epoch, fill="union", real_tail=False)
        (level,) = sampler.plan(epoch).levels
        synthetic, rest = np.sum(data.levels == level), np.sum(~data.is_synth & ~data.tail)
        assert len(rows) == data.n_real
        assert abs(np.sum(data.is_synth[rows]) - data.n_real * synthetic / (synthetic + rest)) < 1


def test_sixty_epochs_over_four_levels_are_fifteen_each_and_then_five_real_ones():
    """Level 100 is no block of the schedule (paper.md 0.1, row 11)."""
    curriculum = Curriculum(random_dataset(0), config(epochs=65, curriculum_epochs=60), 0)
    levels = [curriculum.epoch_plan(epoch).levels for epoch in range(65)]
    assert levels == [(level,) for level in LEVELS for _ in range(15)] + [()] * 5
