"""The weights that count: chosen on the validation split, blended there, saved, and what later commands read."""

import json
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from discl.checkpoint import part, read_tensors
from discl.classifier import recipe_of
from discl.cli import main
from discl.clip_classifier import ClipClassifier, blend
from discl.data import load_data
from discl.dataset import SpectrumDataset
from discl.errors import ConfigError
from discl.evaluation import evaluation_batches
from discl.hard_scores import scores
from discl.kept import SHARES, Kept, counting_weights
from discl.trained import finished
from discl.training import judge, learner_of, train
from tests.discl.test_fitting import Stopped, stopping
from tests.discl.test_training import DIGITS, untimed, write_config

CLIP = files("discl.demo") / "assets" / "clip"
SELECTED = DIGITS.replace("lr = 2e-3", 'lr = 2e-2\nselect = "few"').replace("\nepochs = 3", "\nepochs = 6")
FLYP = (
    DIGITS.replace("real-only", "none")
    .replace('"digitnet"', f'"clip:{CLIP}"\nloss = "flyp"\noptimizer = "adamw"')
    .replace("lr = 2e-3", "lr = 1e-3")
    .replace("\nepochs = 3", "\nepochs = 2")
)


@pytest.fixture(autouse=True)
def uncompiled():
    with torch._dynamo.config.patch(disable=True):
        yield


def history(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def evaluated(folder, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(folder / "config.toml"), "--out", str(folder / "out")]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_best_epoch_of_the_validation_split_counts(tmp_path, capsys):
    config = write_config(tmp_path, SELECTED)
    result = train(config, tmp_path / "out")
    seen = [record["val"]["few"] for record in history(tmp_path / "out")]
    assert result["chosen"] == {"epoch": int(np.argmax(seen)), "by": "few"} and len(set(seen)) > 1
    assert result["splits"]["val"]["few"] == max(seen)
    assert evaluated(tmp_path, capsys) == result["splits"], "evaluate reads the weights that count"
    assert counting_weights(tmp_path / "out").name == "best.safetensors"
    with pytest.raises(Stopped):
        train(config, tmp_path / "again", stopping(lambda event: None, 30))
    assert untimed(train(config, tmp_path / "again")) == untimed(result)


def test_a_training_that_begins_anew_leaves_nothing_of_the_one_before(tmp_path):
    config, out = write_config(tmp_path, SELECTED.replace("\nepochs = 6", "\nepochs = 2")), tmp_path / "out"
    first = train(config, out)
    (out / "checkpoints" / "last.safetensors").unlink()
    with pytest.raises(Stopped):
        train(config, out, stopping(lambda event: None, 3))
    assert not finished(out) and counting_weights(out).name == "last.safetensors"
    assert untimed(train(config, out)) == untimed(first)


def test_hard_images_are_told_by_the_weights_that_count(tmp_path):
    config = write_config(tmp_path, SELECTED)
    train(config, tmp_path / "out")
    table = load_data(config.data)
    found = scores(tmp_path / "out", table)["confidence"][table.rows("train")]
    best, last = (
        true_class(config, table, tmp_path / "out" / "checkpoints" / f"{name}.safetensors") for name in ("best", "last")
    )
    np.testing.assert_allclose(found, best, atol=1e-6)
    assert not np.allclose(found, last, atol=1e-3)


def true_class(config, table, weights):
    """Probabilities of the training images' own classes."""
    learner = learner_of(config, table)
    learner.reset(0, str(weights))
    model, shares = learner.model.eval(), []
    for batch in evaluation_batches(SpectrumDataset(None, table), recipe_of("digitnet").test, 50):
        with torch.inference_mode():
            shares += torch.softmax(model(batch["image"]), 1).gather(1, batch["label"][:, None]).flatten().tolist()
    return np.array(shares)


def test_nothing_is_chosen_on_test():
    model = SimpleNamespace(state_dict=dict)
    for keys in ({"select": "overall"}, {"ensemble": "auto"}):
        config = SimpleNamespace(**{"select": "last", "ensemble": 1.0} | keys)
        with pytest.raises(ConfigError, match=r"train\.(select|ensemble) = .* needs a split val or id_val; add one"):
            Kept(config, SimpleNamespace(model=model), None, Path())


def test_weight_ensembling_takes_the_best_share_on_the_validation_split(tmp_path, capsys):
    """Against blends made here of CLIP as it comes and the last checkpoint."""
    config = write_config(tmp_path, FLYP + 'ensemble = "auto"\n')
    result = train(config, tmp_path / "out")
    table = load_data(config.data)
    model = ClipClassifier(config.train.model, table.class_names)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = part(read_tensors(tmp_path / "out" / "checkpoints" / "last.safetensors")[0], "model.")
    learner = learner_of(config, table)
    found = {}
    for share in SHARES:
        blend(learner.model, before, after, share)
        found[share] = judge(config, table, learner, "val")()["overall"]
    best = max(found.values())
    assert result["chosen"] == {"ensemble": max(s for s in SHARES if found[s] == best), "epoch": 1, "by": "last"}
    assert result["splits"]["val"]["overall"] == best
    assert evaluated(tmp_path, capsys) == result["splits"]


def test_no_share_of_fine_tuned_weights_is_zero_shot(tmp_path):
    config = write_config(tmp_path, FLYP.replace("\nepochs = 2", "\nepochs = 1") + "ensemble = 0.0\n")
    result = train(config, tmp_path / "out")
    table = load_data(config.data)
    learner = learner_of(config, table)
    assert result["splits"]["test"] == judge(config, table, learner, "test")()
    assert result["chosen"]["ensemble"] == 0.0
