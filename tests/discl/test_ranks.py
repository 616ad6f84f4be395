"""Two processes under torchrun train as one does; another number of them goes on where the first has stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from discl.checkpoint import read_state
from discl.config import load_config
from discl.data import load_data
from discl.dataset import SpectrumDataset
from discl.evaluation import evaluation_batches
from discl.losses import IGNORED, classification_loss
from discl.ranks import Ranks
from discl.staging import padded
from discl.training import train, training_loader
from tests.discl.loading import PLAIN
from tests.discl.spectrum_samples import make_table
from tests.discl.test_fitting import Stopped, stopping
from tests.discl.test_training import DIGITS, spectrum_config, trained_weights, untimed

ROOT = Path(__file__).parents[2]
LESS = "lr = 1e-3\nclip_norm = 1.0"
CLOSE = {"rtol": 1e-3, "atol": 2e-4}  # sums of gradients in another order, through Adam's square roots


def launch(world, module, *arguments, compiled=False):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    environment = os.environ | {"TORCHDYNAMO_DISABLE": str(int(not compiled))}
    command += ["-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)


def torchrun(world, config, out, compiled=False):
    done = launch(world, "discl", "train", str(config), "--out", str(out), compiled=compiled)
    assert done.returncode == 0, done.stderr
    return done


def stopped_at_nine(config, out):
    done = launch(2, "tests.discl.test_ranks", str(config), str(out))
    assert done.returncode and "Stopped" in done.stderr


def steps_done(out):
    state = read_state(out / "checkpoints" / "last.safetensors")
    return state["sampler"]["epoch"] * 6 + state["sampler"]["step"]


def assert_alike(first, second):
    for (name, value), other in zip(trained_weights(first).items(), trained_weights(second).values(), strict=True):
        torch.testing.assert_close(value, other, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("batch", "rest"), [(8, 3), (26, 1)])
def test_two_ranks_train_as_one(tmp_path, batch, rest):
    """27 images: the last batch of an epoch gives the ranks two and one, or one and none."""
    spectrum_config(tmp_path)
    file, table = tmp_path / "config.toml", tmp_path / "data" / "data.csv"
    table.write_text(table.read_text().replace("train-0-23.png,0,many,train\n", ""))
    file.write_text(file.read_text().replace("batch = 8", f"batch = {batch}").replace("lr = 2e-3", LESS))
    alone = train(load_config(file), tmp_path / "one")
    done = torchrun(2, file, tmp_path / "two", compiled=rest == 3)
    assert done.stdout.splitlines() == [str(tmp_path / "two")]
    assert "bottleneck" in done.stderr
    together = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert (tmp_path / "two" / "report.html").is_file()
    assert 27 % batch == rest and alone["steps"] == 3 * -(-27 // batch)
    assert (together.pop("world"), alone.pop("world")) == (2, 1)
    assert untimed(together) == untimed(alone)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("worlds", [(1, 2), (2, 1)])
def test_another_number_of_ranks_goes_on(tmp_path, worlds):
    (tmp_path / "config.toml").write_text(DIGITS)
    file, out = tmp_path / "config.toml", tmp_path / "out"
    train(load_config(file), tmp_path / "straight")
    for world in worlds:
        first = world == worlds[0]
        if first and world == 1:
            with pytest.raises(Stopped):
                train(load_config(file), out, stopping(lambda event: None, 9))
        elif first:
            stopped_at_nine(file, out)
        elif world == 1:
            train(load_config(file), out)
        else:
            torchrun(2, file, out)
        if first:
            assert steps_done(out) == 8  # six steps, an epoch, two steps
    assert_alike(tmp_path / "straight", out)
    assert losses(out) == pytest.approx(losses(tmp_path / "straight"), rel=1e-4)


def test_ranks_that_do_not_divide_the_batch_are_refused(tmp_path):
    (tmp_path / "config.toml").write_text(DIGITS.replace("batch = 32", "batch = 33"))
    done = launch(2, "discl", "train", str(tmp_path / "config.toml"), "--out", str(tmp_path / "out"))
    assert done.returncode and "train.batch = 33 cannot be split evenly over 2 ranks; use a multiple" in done.stderr


@pytest.mark.parametrize("world", [1, 2, 5])
def test_ranks_share_an_evaluation(tmp_path, world):
    data = SpectrumDataset(None, make_table(tmp_path), split="test")
    seen = [
        name
        for rank in range(world)
        for batch in evaluation_batches(data, PLAIN, 2, ranks=Ranks(rank, world))
        for name in batch["id"]
    ]
    assert sorted(seen) == sorted(data.ids) and len(data) == 6


def test_rank_0_says_which_images_are_hard(tmp_path):
    """Ranks ask a classifier each on its own device, and their last bits may differ."""

    class Second(Ranks):
        def agree(self, item):
            return np.array([1, 4]) if isinstance(item, np.ndarray) else item

    config, store = spectrum_config(tmp_path)
    loader = training_loader(config, load_data(config.data), store, ranks=Second(1, 2))
    assert np.flatnonzero(loader.dataset.tail).tolist() == [1, 4]


def test_a_rank_without_rows_sees_no_label(tmp_path):
    images, labels = padded({"image": torch.empty(0, 3, 8, 8), "label": torch.empty(0, dtype=torch.int64)}, 4)
    assert images.shape == (4, 3, 8, 8) and labels.tolist() == [IGNORED] * 4
    logits = torch.zeros(4, 2, requires_grad=True)
    loss = classification_loss(logits, labels, torch.zeros(2), torch.tensor(1.5))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


if __name__ == "__main__":  # a training that stops in its second epoch
    train(load_config(sys.argv[1]), sys.argv[2], stopping(lambda event: None, 9))
