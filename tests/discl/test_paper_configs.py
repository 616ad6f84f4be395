"""The shipped configs: one per row of the paper, and golden counts from list files with its totals."""

import json

import numpy as np
import pytest

from discl.cli import main
from discl.config import load_config
from discl.config.loading import SHIPPED
from discl.errors import ConfigError

NAMES = sorted(file.stem for file in SHIPPED.glob("*.toml"))
PUBLISHED = json.loads((SHIPPED / "published.json").read_text())
WITHOUT_CONFIG = {  # of other authors' methods, quoted by the paper
    "imagenet-lt/CE+LDMLR", "iwildcam/FLYP+ALIA", "iwildcam/LP-FT", "iwildcam/LP-FT+WE",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_valid_and_names_a_published_row(name):
    config = load_config(name)
    assert config.report.paper in {"", *PUBLISHED}
    assert load_config(SHIPPED / f"{name}.toml").train == config.train


def test_every_row_of_the_paper_has_a_config():
    named = {load_config(name).report.paper for name in NAMES}
    assert set(PUBLISHED) - named == WITHOUT_CONFIG


@pytest.fixture(scope="module")
def imagenet_lists(tmp_path_factory):
    """136 tail classes with 1,643 images, 864 others with 114,203; no image."""
    folder = tmp_path_factory.mktemp("imagenet")
    tail = np.full(136, 1643 // 136) + (np.arange(136) < 1643 % 136)
    rest = np.full(864, 114_203 // 864) + (np.arange(864) < 114_203 % 864)
    counts = np.random.default_rng(0).permutation(np.concatenate([tail, rest]))
    lines = [f"train/n{label:08d}/{n}.JPEG {label}" for label, count in enumerate(counts) for n in range(count)]
    (folder / "ImageNet_LT_train.txt").write_text("\n".join(lines) + "\n")
    return folder


def planned(capsys, name, *overrides):
    sets = [word for one in ("model.path=", *overrides) for word in ("--set", one)]
    assert main(["plan", name, *sets]) == 0
    return capsys.readouterr().out


def test_imagenet_lt_by_its_lists_alone(imagenet_lists, capsys):
    text = planned(capsys, "imagenet-lt", f"data.root={imagenet_lists}", "spectrum.retries=0")
    for fact in ("hard images       1,643", "136 of 1,000", "images            52,576", "39,652", "310 of 128"):
        assert fact in text
    assert "5,392 tail, 34,260 other" in text and "115,846 real, 1,643 of them tail" in text
    assert "65, the first 60 with levels" in text


@pytest.mark.parametrize(("scale", "tail"), [(1, 3286), (2, 4929), (3, 6572), (4, 8215), (5, 9858)])
def test_the_scale_ablation_holds_the_share(imagenet_lists, capsys, scale, tail):
    text = planned(capsys, f"imagenet-lt-scale-{scale}", f"data.root={imagenet_lists}")
    assert f"({tail:,} tail, " in text


IMBALANCE_50 = pytest.param(50, "12,608 real, 269", "269", marks=pytest.mark.slow)


@pytest.mark.parametrize(("imbalance", "total", "hard"), [(100, "10,847 real, 325", "325"), IMBALANCE_50])
def test_cifar_counts(tmp_path, capsys, imbalance, total, hard):
    """Every image of the published size: 50,000 and 10,000 records."""
    random = np.random.default_rng(0)
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"class{n}" for n in range(100)))
    for split, count in (("train", 50_000), ("test", 100)):
        records = random.integers(0, 256, (count, 3074), dtype=np.uint8)
        records[:, 1] = np.arange(count) % 100
        records.tofile(tmp_path / f"{split}.bin")
    text = planned(capsys, f"cifar100-lt-{imbalance}", f"data.root={tmp_path}")
    assert total in text and f"hard images       {hard}" in text
    assert f"images            {int(hard) * 3 * 8:,}" in text


def test_a_base_is_taken_over_key_by_key(tmp_path):
    (tmp_path / "a.toml").write_text('[data]\nkind = "digits-lt"\n[train]\nbatch = 7\nlr = 0.5\n')
    (tmp_path / "b.toml").write_text('base = "a.toml"\n[train]\nlr = 0.25\n')
    config = load_config(tmp_path / "b.toml", ["train.seed=3"])
    assert (config.train.batch, config.train.lr, config.train.seed) == (7, 0.25, 3)
    (tmp_path / "a.toml").write_text('base = "b.toml"\n')
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_config(tmp_path / "b.toml")
    (tmp_path / "b.toml").write_text("base = 3\n")
    with pytest.raises(ConfigError, match="name another config"):
        load_config(tmp_path / "b.toml")
    (tmp_path / "b.toml").write_text('base = "gone.toml"\n')
    with pytest.raises(ConfigError, match=r"gone\.toml: no such config file"):
        load_config(tmp_path / "b.toml")
