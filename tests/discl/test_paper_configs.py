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


def test_sentences_that_are_not_written_yet_do_not_hide_the_counts(imagenet_lists, tmp_path, capsys):
    where = [f"data.root={imagenet_lists}", f"spectrum.prompts={tmp_path / 'later.json'}", "spectrum.retries=0"]
    text = planned(capsys, "imagenet-lt-prompts", *where)
    assert "images            52,576" in text and "310 of 128" in text
    assert f"prompts           {tmp_path / 'later.json'} is not there yet: `discl prompts` writes it" in text
    (tmp_path / "later.json").write_text('{"griffin": ["a griffin in the mist"]}')
    assert main(["plan", "imagenet-lt-prompts", *(word for one in where for word in ("--set", one))]) == 2
    assert "'griffin' is not in the data" in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def wildcam_list(tmp_path_factory):
    """WILDS' metadata with its 129,809 training images of 182 classes; no image."""
    folder = tmp_path_factory.mktemp("wilds") / "iwildcam_v2.0"
    folder.mkdir()
    splits = [("train", 129_809), ("id_val", 200), ("test", 200), ("id_test", 200)]
    rows = [f"{split},{split}-{n}.jpg,{n % 182}" for split, count in splits for n in range(count)]
    (folder / "metadata.csv").write_text("\n".join(["split,filename,y", *rows]) + "\n")
    return folder.parent


def test_iwildcam_by_its_list_alone_before_the_training_that_tells_the_hard_images(wildcam_list, capsys):
    text = planned(capsys, "iwildcam", f"data.root={wildcam_list}")
    for fact in (
        "hard images       8,260 (hard.limit; which ones, the training",
        "images            198,240",
        "129,809 real",
    ):
        assert fact in text, text
    assert "20, the first 15 with levels" in text and "unknown of 182" in text
    where = ["--set", f"data.root={wildcam_list}", "--set", "model.path=nowhere"]
    assert main(["plan", "iwildcam", *where, "--against", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("discl: ") and error.count("\n") == 1 and "iwildcam-flyp-run: no finished training" in error


def test_inaturalist_by_its_lists_alone(tmp_path, capsys):
    """A hundredth of the data set, as many seeds and levels: 450 hard images are 7,200 requests."""
    counts = [18] * 25 + [30] * 56
    images = [(label, n) for label, count in enumerate(counts) for n in range(count)]
    listed = {
        "images": [
            {"id": i, "file_name": f"train_val2018/Aves/{label}/{n}.jpg"} for i, (label, n) in enumerate(images)
        ],
        "annotations": [{"id": i, "image_id": i, "category_id": label} for i, (label, _) in enumerate(images)],
        "categories": [{"id": label, "name": str(label)} for label in range(len(counts))],
    }
    for name in ("train", "val"):
        (tmp_path / f"{name}2018.json").write_text(json.dumps(listed).replace("train_val2018", f"{name}_val2018"))
    text = planned(capsys, "inaturalist2018", f"data.root={tmp_path}")
    assert "hard images       450" in text and f"images            {450 * 4 * 4:,}" in text
    assert "25 of 81" in text and "2,130 real, 450 of them tail" in text


@pytest.fixture(scope="module")
def small_sets(tmp_path_factory):
    """One class of few images and one of many, in the files of every kind; no image but CIFAR's own."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "imagenet").mkdir()
    lines = [f"train/n{label}/{n}.JPEG {label}" for label, count in ((0, 30), (1, 5)) for n in range(count)]
    (folder / "imagenet" / "ImageNet_LT_train.txt").write_text("\n".join(lines))
    (folder / "cifar100").mkdir()
    (folder / "cifar100" / "fine_label_names.txt").write_text("a\nb\n")
    records = np.random.default_rng(0).integers(0, 256, (400, 3074), dtype=np.uint8)
    records[:, 1] = np.arange(400) % 2
    for split in ("train", "test"):
        records.tofile(folder / "cifar100" / f"{split}.bin")
    (folder / "iwildcam").mkdir()
    rows = [f"{split},{split}{n}.jpg,{n % 2}" for split in ("train", "id_val", "id_test", "test") for n in range(40)]
    (folder / "iwildcam" / "metadata.csv").write_text("\n".join(["split,filename,y", *rows]))
    (folder / "inaturalist2018").mkdir()
    listed = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(35)],
        "annotations": [{"id": n, "image_id": n, "category_id": int(n >= 30)} for n in range(35)],
        "categories": [{"id": n, "name": str(n)} for n in range(2)],
    }
    (folder / "inaturalist2018" / "train2018.json").write_text(json.dumps(listed))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_planned_from_lists(name, small_sets, tmp_path, capsys):
    root = small_sets / next(
        kind for kind in ("imagenet", "cifar100", "inaturalist2018", "iwildcam") if name.startswith(kind)
    )
    where, config = [f"data.root={root}"], load_config(name)
    if config.spectrum.prompts:
        where.append(f"spectrum.prompts={tmp_path / 'sentences.json'}")
        assert main(["prompts", name, *(word for one in where for word in ("--set", one))]) == 0
        capsys.readouterr()
    text = planned(capsys, name, *where)
    hard = int(text.splitlines()[0].split()[2])
    images = hard * len(config.spectrum.levels) * len(config.spectrum.seeds)
    line = text.splitlines()[[row.startswith("images  ") for row in text.splitlines()].index(True)]
    assert hard and f" {images:,}" in line, text


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
    with pytest.raises(ConfigError, match=r"imagenet-l: no such config .* package, 'imagenet-lt' say"):
        load_config("imagenet-l")
    with pytest.raises(ConfigError, match=r"gone\.toml: no such config file"):
        load_config(tmp_path / "b.toml")
