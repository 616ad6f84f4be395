"""`train` leaves a folder that reproduces it, and goes on from one with the images it began with."""

import json

import pytest
import torch

from discl.checkpoint import part, read_tensors
from discl.config import load_config
from discl.errors import ConfigError, ModelError, StoreError
from discl.store import Store, StoreWriter
from discl.training import train
from tests.discl.spectrum_samples import CLASS_NAMES, key, make_store, make_table, png
from tests.discl.test_fitting import Stopped, assert_equal, stopping


def write_config(folder, text):
    (folder / "config.toml").write_text(text)
    return load_config(folder / "config.toml")


DIGITS = """
[data]
kind = "digits-lt"
root = "digits"
[hard]
few_below = 10
many_from = 30
[curriculum]
policy = "real-only"
epochs = 3
curriculum_epochs = 2
nontail_share = 1.0
[train]
model = "digitnet"
batch = 32
lr = 2e-3
device = "cpu"
"""


def test_train_leaves_a_folder_that_reproduces_it(tmp_path):
    events = []
    result = train(write_config(tmp_path, DIGITS), tmp_path / "out", events.append)
    out = tmp_path / "out"
    assert json.loads((out / "metrics.json").read_text()) == result
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines == [event for event in events if event["event"] == "epoch"]
    steps = [event for event in events if event["event"] == "progress"]
    assert [(step["done"], step["total"]) for step in steps] == [(n, 18) for n in range(1, 19)]
    assert all(step["input_wait"] + step["compute"] == pytest.approx(1) and step["rate"] > 0 for step in steps)
    assert result["speed"]["bottleneck"] == max(result["seconds"], key=result["seconds"].get)
    assert sum(result["seconds"].values()) == pytest.approx(sum(line["seconds"] for line in lines))
    assert f"{100 * result['overall']:.1f}</" in (out / "report.html").read_text()
    assert result["steps"] == 18
    assert result["overall"] == result["splits"]["test"]["overall"] > 0.2
    assert lines[-1]["val"] == result["splits"]["val"]
    tensors, state = read_tensors(out / "checkpoints" / "last.safetensors")
    assert state["sampler"]["epoch"] == 3

    again = train(load_config(out / "config.toml"), tmp_path / "again")
    assert untimed(again) == untimed(result)
    tensors_again, _ = read_tensors(tmp_path / "again" / "checkpoints" / "last.safetensors")
    assert_equal(tensors, tensors_again)
    assert train(load_config(out / "config.toml"), out) == result  # finished: nothing is trained again


def spectrum_config(folder):
    """all-level, four epochs on the table and store of spectrum_samples; and that store."""
    table, store = make_table(folder / "data"), make_store(folder / "spectrum")
    lines = [
        f"{name},{label},{table.class_names[label]},{split}"
        for name, label, split in zip(table.ids, table.labels, table.splits, strict=True)
    ]
    (folder / "data" / "data.csv").write_text("\n".join(["path,label,class_name,split", *lines]))
    config = write_config(
        folder,
        DIGITS.replace('"digits-lt"', '"csv"').replace('"digits"', '"data/data.csv"').replace("32", "8")
        .replace("real-only", "all-level") + '[spectrum]\nlevels = [0, 50]\n[store]\npath = "spectrum"\n',
    )  # fmt: skip
    return config, store


def grow(path):
    """Two more shards' worth of images, all selected."""
    with StoreWriter(path, "more", shard_bytes=1 << 20) as writer:
        for number in range(100, 110):
            row = {"key": key(number), "source_id": "train-1-0.png", "class_id": 1, "class_name": CLASS_NAMES[1]}
            row |= {"level": 50, "seed": number, "retry": 0, "status": "ok"}
            writer.append(row, png((9, number, 99), size=(32, 32)), "png", None)
    store = Store(path)
    store.write_selection("default", store.keys()[3:], {"rule": "other"})
    return store


def untimed(result):
    return {name: value for name, value in result.items() if name not in ("seconds", "speed")}


def trained_weights(out):
    return part(read_tensors(out / "checkpoints" / "last.safetensors")[0], "model.")


def test_train_draws_from_the_store_and_records_its_snapshot(tmp_path):
    config, store = spectrum_config(tmp_path)
    events = []
    result = train(config, tmp_path / "out", events.append)
    assert [event["levels"] for event in events if event["event"] == "epoch"] == [[0, 50], [0, 50], []]
    assert result["snapshot"] == store.snapshot()
    assert result["policy"] == "all-level"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "all-level" in page


@pytest.mark.parametrize("events", [3, 5, 6])
def test_a_training_goes_on_with_the_images_it_began_with(tmp_path, events):
    """Stopped in the first epoch, at its end, and in the second; then the store grows and selects anew."""
    config, store = spectrum_config(tmp_path)
    expected = train(config, tmp_path / "straight")
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        train(config, out, stopping(lambda event: None, events))
    with open(out / "log.jsonl", "a") as log:
        log.write('{"event": "epoch", "epoch": 1}\n')  # as after a kill: further than the checkpoint
    grown = grow(tmp_path / "spectrum")
    assert grown.snapshot() != store.snapshot()
    assert untimed(train(config, out)) == untimed(expected)
    assert_equal(trained_weights(out), trained_weights(tmp_path / "straight"))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert untimed(train(config, out)) == untimed(expected)  # finished
    anew = train(config, tmp_path / "anew")
    assert anew["snapshot"] == grown.snapshot()
    assert any(
        not torch.equal(value, trained_weights(out)[name]) for name, value in trained_weights(tmp_path / "anew").items()
    )


def test_a_training_begun_stands_by_its_config_images_and_keys(tmp_path):
    config, _ = spectrum_config(tmp_path)
    out = tmp_path / "out"
    train(config, out)
    left = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    other = config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.5})})
    with pytest.raises(ConfigError, match="belongs to a run with another config"):
        train(other, out)
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == left
    keys = out / "checkpoints" / "selection.txt"
    keys.write_text(keys.read_text()[33:])
    with pytest.raises(ModelError, match=r"selection\.txt: not the selection that this training began with"):
        train(config, out)
    data = tmp_path / "data" / "data.csv"
    data.write_text(data.read_text().replace("train-0-0.png,0,many", "train-0-0.png,1,a/b ü"))
    with pytest.raises(ConfigError, match="or other data"):
        train(config, out)


def test_what_train_refuses(tmp_path):
    config = write_config(tmp_path, DIGITS.replace("real-only", "adaptive"))
    with pytest.raises(StoreError, match="is not a discl store"):
        train(config, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*cannot be written"):
        train(write_config(tmp_path, DIGITS), tmp_path / "file" / "out")
