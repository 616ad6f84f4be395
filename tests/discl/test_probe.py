"""The policy adaptive in training: what the probe takes, what it measures, and that it can be stopped."""

from types import SimpleNamespace

import numpy as np
import pytest

from discl.data import load_data
from discl.errors import StoreError
from discl.probe import choose_probe, progress
from discl.store import Store, StoreWriter
from discl.store.import_ import import_
from discl.training import learner_of, train, training_parts
from tests.discl import data_kinds
from tests.discl.spectrum_samples import key, png
from tests.discl.test_fitting import Stopped, assert_equal, stopping
from tests.discl.test_training import DIGITS, trained_weights, untimed, write_config

LEVELS = (0, 50)
ADAPTIVE = (
    DIGITS.replace("real-only", "adaptive").replace("few_below = 10", "few_below = 30")
    + '[spectrum]\nlevels = [0, 50]\n[store]\npath = "spectrum"\n'
)


def rule(**keys):
    return SimpleNamespace(**{"probe_least": 2, "probe_confidence": 0.0, "probe_memory": 0.0} | keys)


def project(folder, text=ADAPTIVE):
    """The digits, with two images at every level of each image of the classes below 30."""
    config = write_config(folder, text)
    table = load_data(config.data)
    rows = [row for row in table.rows("train") if table.train_counts[table.labels[row]] < 30]
    with StoreWriter(config.store.path, "run", shard_bytes=1 << 20) as writer:
        for number, (row, level, seed) in enumerate((r, v, s) for r in rows for v in LEVELS for s in (1, 2)):
            label = int(table.labels[row])
            facts = {"key": key(number), "source_id": table.ids[row], "source_ids": [table.ids[row]], "seed": seed}
            facts |= {"class_id": label, "class_name": table.class_names[label], "level": level, "status": "ok"}
            writer.append(facts, png((20 * label, level, seed), size=(8, 8)), "png", None)
    store = Store(config.store.path)
    store.write_selection("default", store.keys(), {"rule": "all"})
    return config, table, store


def test_progress_by_hand():
    """1, 2, 3, 4: quartiles 1.75 and 3.25, so 100 lies outside and the rest has the mean 2.5."""
    change = np.array([1.0, 2.0, 3.0, 4.0])
    assert progress(change, rule()) == 2.5
    far = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    low, high = np.quantile(far, [0.25, 0.75])
    assert high + 1.5 * (high - low) < 100
    assert progress(far, rule()) == 2.5
    assert progress(change[:1], rule()) is None and progress(change, rule(probe_least=5)) is None
    bound = progress(change, rule(probe_confidence=0.975))
    assert bound == pytest.approx(2.5 - 1.959964 * np.std(change, ddof=1) / 2, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_no_probe_image_is_in_training_and_no_class_is_emptied(tmp_path, seed):
    config, table, store = project(tmp_path)
    probe = choose_probe(table, store, store.keys(), LEVELS, most=9, seed=seed)
    again = choose_probe(table, store, store.keys()[::-1], LEVELS, most=9, seed=seed)
    assert probe.rows.tolist() == again.rows.tolist() and sorted(probe.keys) == sorted(again.keys)
    assert len(probe.rows) == 9 and len(probe.keys) == 9 * len(LEVELS) and len(probe.lost) == 9 * len(LEVELS) * 2
    learner = learner_of(config, table)
    loader, stage = training_parts(config, table, store, "default", learner)
    dataset = loader.dataset
    seen = set(dataset.names(np.arange(len(dataset))))
    own = choose_probe(table, store, store.keys(), LEVELS, config.curriculum.probe_images, config.train.seed)
    assert not seen & {*(table.ids[row] for row in own.rows), *own.lost}
    assert set(stage.dataset.names(np.arange(len(stage.dataset)))) == {*(table.ids[r] for r in own.rows), *own.keys}
    assert sorted(set(stage.dataset.levels.tolist())) == [*LEVELS, 100]
    left = [row for row in table.rows("train") if row not in set(probe.rows.tolist())]
    assert (np.bincount(table.labels[left], minlength=10) > 0).all()


def test_a_probe_too_small_to_trust_is_said(tmp_path, caplog):
    config, table, store = project(tmp_path)
    least = config.curriculum.model_copy(update={"probe_least": 500})
    config = config.model_copy(update={"curriculum": least})
    training_parts(config, table, store, "default", learner_of(config, table))
    assert "fewer than curriculum.probe_least = 500: no gain is trusted and the lowest level stays" in caplog.text
    assert "a quarter at most leaves the training" in caplog.text


def test_adaptive_trains_and_says_what_it_saw(tmp_path):
    config, _, _ = project(tmp_path)
    events = []
    result = train(config, tmp_path / "out", events.append)
    first, second, last = (event for event in events if event["event"] == "epoch")
    for record in (first, second):
        assert set(record["gains"]) == {"0", "50", "100"} and record["probed"] > 100
        best = max(sorted(record["gains"], key=int), key=record["gains"].get)
        assert record["levels"] == ([] if best == "100" else [int(best)])
    assert "gains" not in last and last["levels"] == []
    assert result["samples"] > 2 * first["probed"]


@pytest.mark.parametrize("events", [2, 5, 9])
def test_an_adaptive_training_goes_on_exactly(tmp_path, events):
    config, _, _ = project(tmp_path)
    expected = train(config, tmp_path / "straight")
    with pytest.raises(Stopped):
        train(config, tmp_path / "out", stopping(lambda event: None, events))
    assert untimed(train(config, tmp_path / "out")) == untimed(expected)
    assert_equal(trained_weights(tmp_path / "out"), trained_weights(tmp_path / "straight"))


def reference_project(folder):
    """Two classes of ImageNet-LT with four images each, and what the paper's code makes of the second one's."""
    lines = [f"train/n0{label}/n0{label}_{number}.JPEG {label}" for label in range(2) for number in range(4)]
    (folder / "ImageNet_LT_train.txt").write_text("\n".join(lines))
    for line in lines:
        data_kinds.save(folder / line.split()[0])
    made = [f"made/n01/Strength{100 - level}_guidance100_seed10/n01_{n}.JPEG" for n in range(4) for level in LEVELS]
    for number, name in enumerate(made):
        data_kinds.save(folder / name, value=number)
    listed = (f"{name} 1 {LEVELS[number % 2]} 4" for number, name in enumerate(made))
    (folder / "ImageNet_LT_train_aug.txt").write_text("\n".join([*(f"{line} 100 4" for line in lines), *listed]))
    return load_data(data_kinds.config("imagenet-lt", folder))


@pytest.mark.parametrize(("kind", "source"), [("reference", "made"), ("reference-list", "ImageNet_LT_train_aug.txt")])
def test_imported_images_are_traced_to_their_sources_by_file_name(tmp_path, kind, source):
    table = reference_project(tmp_path)
    store = import_(tmp_path / source, tmp_path / "store", kind, 1 << 20)
    probe = choose_probe(table, store, store.keys(), LEVELS, most=9, seed=3)
    (row,) = probe.rows.tolist()
    assert table.labels[row] == 1 and len(probe.keys) == len(LEVELS) and set(probe.keys) == probe.lost
    of_keys = {one["key"]: one["source_id"] for one in store.table.to_pylist()}
    assert {of_keys[key].rpartition("/")[2] for key in probe.keys} == {table.ids[row].rpartition("/")[2]}


def test_a_name_that_two_images_of_a_class_share_is_of_none(tmp_path):
    table = reference_project(tmp_path)
    for number in range(4):
        table.ids[4 + number] = f"{number % 2}/n01_{number // 2 * 2}.JPEG"  # n01_0 twice, n01_2 twice, no odd one
    store = import_(tmp_path / "made", tmp_path / "store", "reference", 1 << 20)
    with pytest.raises(StoreError, match=r"no selected image of .*store names a training image of the data"):
        choose_probe(table, store, store.keys(), LEVELS, most=9, seed=0)


def test_without_a_whole_spectrum_there_is_nothing_to_probe(tmp_path):
    _, table, store = project(tmp_path)
    with pytest.raises(StoreError, match=r"at each of the levels 0, 30, 50, and none of the [0-9]+ .* fewer spectrum"):
        choose_probe(table, store, store.keys(), (*LEVELS, 30), most=9, seed=0)
    only = table.take([row for row in table.rows("train") if table.labels[row] == 9][:1])
    with pytest.raises(StoreError, match=r"last training image .* all 1 images .* another policy"):
        choose_probe(only, store, store.keys(), LEVELS, most=9, seed=0)
