"""The order is a pure function: same on any number of ranks, from any start, after any restart."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from discl.errors import ConfigError
from discl.sampler import CurriculumSampler, InOrder
from tests.discl.test_curriculum import config, dataset


def sampler(batch=16, seed=3, rank=0, world=1, policy="diverse-to-specific", data=None, **keys):
    keys = {"epochs": 6, "curriculum_epochs": 4} | keys
    return CurriculumSampler(data or dataset(), config(policy, **keys), batch, seed, rank, world)


class Rows(Dataset):
    """Gives the rows it is asked for."""

    def __len__(self):
        return 69

    def __getitem__(self, row):
        return row


def epochs(source, count):
    return [list(source) for _ in range(count)]


def test_an_epoch_draws_each_pool_as_planned():
    data, source = dataset(), sampler()
    for epoch in range(6):
        rows = np.concatenate(list(source))
        assert len(rows) == 40
        assert np.sum(~data.is_synth[rows] & ~data.tail[rows]) == 20
        counts = np.bincount(rows, minlength=len(data.labels))
        assert counts[:40].max() == 1  # undersampled without replacement
        assert set(counts[40:45]) == ({1} if epoch < 4 else {4})  # every real tail image
        assert set(data.levels[rows]) - {100} == ({(0, 10, 30, 50)[epoch]} if epoch < 4 else set())


def test_the_rest_is_drawn_afresh_each_epoch():
    first, second = epochs(sampler(), 2)
    chosen = [{row for batch in epoch for row in batch if row < 40} for epoch in (first, second)]
    assert chosen[0] != chosen[1]


def test_integers_of_numpy_give_the_same_order_and_a_state_for_json():
    numpys = sampler(batch=np.int64(16), seed=np.uint32(3))
    assert epochs(numpys, 2) == epochs(sampler(), 2)
    json.dumps(numpys.state_dict())


def test_seeds_give_different_orders():
    assert epochs(sampler(seed=1), 1) == epochs(sampler(seed=1), 1)
    assert epochs(sampler(seed=1), 1) != epochs(sampler(seed=2), 1)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_batch_is_the_same_for_every_world(world):
    alone = epochs(sampler(), 6)
    ranks = [epochs(sampler(rank=rank, world=world), 6) for rank in range(world)]
    for epoch in range(6):
        for step, batch in enumerate(alone[epoch]):
            parts = [ranks[rank][epoch][step] for rank in range(world)]
            merged = [parts[place % world][place // world] for place in range(len(batch))]
            assert merged == batch


@pytest.mark.parametrize("world", [1, 2])
def test_positions_belong_to_the_rows(world):
    alone = np.concatenate([sampler().rows(1, step) for step in range(3)])
    for rank in range(world):
        part = sampler(rank=rank, world=world)
        for step in range(len(part)):
            assert np.array_equal(alone[part.positions(1, step)], part.rows(1, step))


@pytest.mark.parametrize("stop", range(0, 18, 5))
def test_resuming_at_any_batch_continues_the_order(stop):
    whole = [batch for epoch in epochs(sampler(), 6) for batch in epoch]
    source, seen = sampler(), []
    while len(seen) < stop:
        for batch in source:
            seen.append(batch)
            if len(seen) == stop:
                break
    resumed = sampler()
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    rest = [batch for _ in range(resumed.epoch, 6) for batch in resumed]
    assert seen + rest == whole


def test_a_state_of_another_order_is_refused():
    state = sampler(seed=1).state_dict()
    with pytest.raises(ConfigError, match=r"train\.seed = 1; resume with that value instead of 2"):
        sampler(seed=2).load_state_dict(state)


def test_a_batch_that_ranks_cannot_share():
    with pytest.raises(ConfigError, match=r"train\.batch = 16 cannot be split evenly over 3 ranks"):
        sampler(world=3)


def test_observations_choose_the_next_epoch_and_survive_a_restart():
    source = sampler(policy="adaptive")
    assert source.plan(0).levels == (0,)
    source.observe(30, 0.2, 0.5)
    source.observe(10, 0.2, 0.3)
    assert source.plan(0).levels == (0,)  # frozen
    list(source)
    assert source.plan(1).levels == (30,)
    source.observe(10, 0.2, 0.9)
    next(iter(source))
    resumed = sampler(policy="adaptive")
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert resumed.plan(1).levels == (30,)
    assert list(resumed) == list(source)
    assert resumed.plan(2).levels == source.plan(2).levels == (10,)


def test_class_counts_are_what_an_epoch_holds():
    data, source = dataset(), sampler()
    rows = np.concatenate(list(source))
    assert source.class_counts(0) == pytest.approx(np.bincount(data.labels[rows]))


def test_a_torch_data_loader_takes_it_as_its_batch_sampler():
    loader = DataLoader(Rows(), batch_sampler=sampler())
    assert len(loader) == 3
    assert [batch.tolist() for batch in loader] == epochs(sampler(), 1)[0]


def test_a_rank_without_rows_in_the_last_batch_gets_no_empty_list():
    """40 images in batches of 39 leave one image for three ranks."""

    ranks = [sampler(batch=39, rank=rank, world=3, seed=4) for rank in range(3)]
    seen = [[batch.tolist() for batch in DataLoader(Rows(), batch_sampler=rank)] for rank in ranks]
    assert sorted(len(batches) for batches in seen) == [1, 1, 2]
    assert all(batch for batches in seen for batch in batches)
    assert all((rank.epoch, rank.step) == (1, 0) for rank in ranks)
    alone = [row for batch in sampler(batch=39, seed=4) for row in batch]
    assert sorted(row for batches in seen for batch in batches for row in batch) == sorted(alone)


@pytest.mark.parametrize("consumed", [0, 1, 3])
def test_the_state_after_what_a_prefetching_loader_has_consumed(consumed):
    source = sampler(policy="adaptive")
    source.observe(30, 0.2, 0.5)
    ahead = iter(DataLoader(Rows(), batch_sampler=source, num_workers=1))
    seen = [next(ahead).tolist() for _ in range(consumed)]
    del ahead
    resumed, straight = sampler(policy="adaptive"), sampler(policy="adaptive")
    straight.observe(30, 0.2, 0.5)
    whole = [batch for epoch in epochs(straight, 2) for batch in epoch]
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict(consumed, epoch=0))))
    rest = [batch for _ in range(resumed.epoch, 2) for batch in resumed]
    assert seen + rest == whole


def test_in_order_gives_every_row_once():
    source = InOrder(range(7), 3)
    assert [source.rows(0, step).tolist() for step in range(len(source))] == [[0, 1, 2], [3, 4, 5], [6]]
    for _ in range(3):
        source.advance()
    assert (source.epoch, source.step) == (1, 0)


def with_levels(chosen, policy="diverse-to-specific", **keys):
    source = sampler(policy=policy, data=three_classes(), **keys)
    source.set_class_levels(chosen)
    return source


def three_classes():
    """20 real images of class 0, three of the tail classes 1 and 2, four synthetic ones per level and tail class."""
    real, made = np.repeat([0, 1, 2], [20, 3, 3]), np.tile(np.repeat([1, 2], 4), 4)
    labels = np.concatenate([real, made])
    rows = np.arange(len(labels))
    return SimpleNamespace(
        n_real=26,
        class_names=("rest", "first", "second"),
        labels=labels,
        levels=np.concatenate([np.full(26, 100), np.repeat([0, 10, 30, 50], 8)]),
        is_synth=rows >= 26,
        tail=(labels > 0) & (rows < 26),
    )


def levels_of_class(source, epoch):
    """Class -> the levels of its synthetic images in an epoch."""
    data = source.dataset
    rows = np.concatenate([source.rows(epoch, step) for step in range(len(source))])
    rows = rows[data.is_synth[rows]]
    return {label: set(data.levels[rows[data.labels[rows] == label]].tolist()) for label in (1, 2)}


def test_classes_draw_from_their_own_levels():
    source = with_levels({2: 50})
    assert [levels_of_class(source, epoch) for epoch in (0, 1)] == [{1: {0}, 2: {50}}, {1: {10}, 2: {50}}]
    assert source.plan(0).levels == (0, 50)
    source = with_levels({1: (30, 50), 2: 100})
    assert levels_of_class(source, 0) == {1: {30, 50}, 2: set()}
    assert levels_of_class(source, 5) == {1: set(), 2: set()}  # the curriculum's epochs are over
    assert levels_of_class(with_levels({}), 0) == {1: {0}, 2: {0}}


def test_a_level_that_rises_with_a_probe_counts_from_the_next_epoch():
    """The loop that CUDA (ICLR 2023) runs, from outside, with a restart in the middle."""
    levels, ladder = {1: 0, 2: 3}, (0, 10, 30, 50)
    source = with_levels({label: ladder[place] for label, place in levels.items()})
    for epoch in range(3):
        assert levels_of_class(source, epoch) == {label: {ladder[place]} for label, place in levels.items()}
        levels = {1: min(levels[1] + 1, 3), 2: max(levels[2] - 1, 0)}
        source.set_class_levels({label: ladder[place] for label, place in levels.items()})
        resumed = sampler(data=three_classes())
        resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
        assert list(resumed) == list(source)
        source = resumed


@pytest.mark.parametrize("chosen", [{3: 0}, {-1: 0}, {1: 7}])
def test_levels_and_classes_that_are_not_there(chosen):
    with pytest.raises(ConfigError, match=r"classes are 0..2, levels \[0, 10, 30, 50, 100\]"):
        with_levels(chosen)


def test_weights_shift_what_is_drawn_and_survive_a_restart():
    data = dataset(nontail=400, tail=50, synthetic=(60, 60, 60, 60))
    random = np.random.default_rng(0)
    weights = random.choice([0.0, 1.0, 3.0], len(data.labels))
    source, even = sampler(data=data), sampler(data=data)
    list(source), list(even)
    source.set_weights(weights)
    weights[:] = -1  # the sampler has its own copy
    weights = source._feedback.weights
    rows = np.concatenate([source.rows(1, step) for step in range(len(source))])
    counts = np.bincount(rows, minlength=len(data.labels))
    for pool in source.plan(1).pools:
        ids = np.asarray(pool.ids)
        expected = pool.quota * weights[ids] / weights[ids].sum()
        assert np.abs(counts[ids] - expected).max() < 2 + 1e-3
        assert counts[ids].sum() == pool.quota
    assert source.class_counts(1).sum() == pytest.approx(even.class_counts(1).sum())
    next(iter(source))
    state = json.loads(json.dumps(source.state_dict()))
    source.set_weights(None)  # for epoch 2; epoch 1 is frozen
    resumed = sampler(data=data)
    resumed.load_state_dict(state)
    resumed.set_weights(None)
    assert list(resumed) == list(source)
    assert list(resumed) == list(source) == [even.rows(2, step).tolist() for step in range(len(even))]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_weighted_batches_are_the_same_on_any_number_of_ranks(world):
    weights = np.linspace(0.1, 2, 69)
    parts = []
    for rank in range(world):
        part = sampler(rank=rank, world=world)
        part.set_weights(weights)
        parts.append([part.rows(0, step) for step in range(3)])
    alone = sampler()
    alone.set_weights(weights)
    for step in range(3):
        merged = np.empty(len(alone.rows(0, step)), np.int64)
        for rank in range(world):
            merged[rank::world] = parts[rank][step]
        assert np.array_equal(merged, alone.rows(0, step))


def test_a_pool_whose_weights_are_all_zero_is_named():
    source = sampler()
    source.set_weights((np.arange(69) < 40).astype(float))
    with pytest.raises(ConfigError, match=r"epoch 0 cannot be drawn: pool 1: no weight is positive \(.*1 is tail"):
        list(source)


def test_any_order_of_the_rows_gives_pools_of_the_same_images():
    """The dataset's rows need not lie in the order of their groups."""
    data, random = three_classes(), np.random.default_rng(3)
    mixed = np.concatenate([random.permutation(26), 26 + random.permutation(32)])
    shuffled = SimpleNamespace(n_real=26, class_names=data.class_names)
    for name in ("labels", "levels", "is_synth", "tail"):
        setattr(shuffled, name, getattr(data, name)[mixed])
    for epoch in range(5):
        plans = [sampler(data=one).plan(epoch) for one in (data, shuffled)]
        for first, second in zip(plans[0].pools, plans[1].pools, strict=True):
            assert (first.name, first.quota) == (second.name, second.quota)
            assert sorted(first.ids.tolist()) == sorted(mixed[np.asarray(second.ids)].tolist())
        counts = [sampler(data=one).class_counts(epoch) for one in (data, shuffled)]
        assert counts[0] == pytest.approx(counts[1])


def test_a_state_of_other_images_is_refused():
    data, other = dataset(), dataset()
    data.digest, other.digest = "one", "two"
    with pytest.raises(ConfigError, match="made with other images; resume with the same data and selection"):
        sampler(data=other).load_state_dict(sampler(data=data).state_dict())
