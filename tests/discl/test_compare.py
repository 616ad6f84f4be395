"""report --compare: against the control, with paired intervals; --gate is about what fell for certain."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from discl.cli import main
from discl.errors import ConfigError, DataError
from discl.evaluation import metrics
from discl.report.compare import as_text, bootstrap, compare, numbers, published, table

COUNTS = [200, 50, 5]  # many, medium, few
CONFIG = """
[report]
paper = "{paper}"
[data]
kind = "digits-lt"
root = "{root}"
"""


def write_run(folder, policy, right, paper="", seed=0, split="test", images=300):
    """A finished training whose classifier is right with probability right[class]."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    hit = np.random.default_rng(99).random(images) < np.array(right)[labels]  # the same images are hard for everybody
    classes = np.where(hit, labels, (labels + 1 + random.integers(0, 2, images)) % 3)
    found = metrics(labels, classes, COUNTS, 20, 100)
    folder.mkdir(parents=True)
    (folder / "predictions").mkdir()
    splits = {split: found} | ({"test": found} if split == "id_test" else {})
    for name in splits:
        np.save(folder / "predictions" / f"{name}.npy", np.stack([labels, classes]).astype(np.int32))
    summary = found | {
        "splits": splits, "policy": policy, "loss": "ce", "seed": seed, "samples": 123_456, "steps": 10, "world": 2,
        "seconds": {"step": 1800.0}, "groups": ["many", "medium", "few"], "device": "cpu",
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(summary))
    (folder / "config.toml").write_text(CONFIG.format(paper=paper, root=folder / "data"))
    return str(folder)


def test_a_run_stands_beside_the_papers_row_and_the_control(tmp_path, capsys):
    name = "imagenet-lt/CE+DisCL/diverse-to-specific"
    runs = [
        write_run(tmp_path / "control", "real-only", (0.9, 0.7, 0.3)),
        write_run(tmp_path / "ours", "diverse-to-specific", (0.9, 0.7, 0.8), name),
    ]
    control, ours = compare(runs)
    assert control.against == {} and ours.paper["few"] == 23.64
    delta, low, high = ours.against["control"]["few"]
    assert delta == pytest.approx(numbers(ours.run)["few"] - numbers(control.run)["few"]) and 0 < low < delta < high
    assert ours.facts["hours"] == 1.0, "1,800 s on two devices"
    page = tmp_path / "page.html"
    assert main(["report", "--compare", "--gate", *runs, "--out", str(page)]) == 0
    out = capsys.readouterr().out
    assert f"paper: {name}" in out and "23.6" in out and "123,456" in out and "vs control" in out
    assert "Runs beside the paper" in page.read_text() and "23.6" in page.read_text()


def test_a_certain_loss_is_exit_1_under_the_gate_alone(tmp_path, capsys):
    runs = [
        write_run(tmp_path / "control", "real-only", (0.9, 0.7, 0.7)),
        write_run(tmp_path / "worse", "all-level", (0.9, 0.7, 0.1)),
    ]
    assert main(["report", "--compare", *runs]) == 0
    assert main(["report", "--gate", *runs]) == 1
    error = capsys.readouterr().err
    assert "regression: worse against control: few -" in error and "[" in error
    again = [*runs[:1], write_run(tmp_path / "same", "all-level", (0.9, 0.7, 0.69), seed=1)]
    assert main(["report", "--gate", *again]) == 0, "within the interval"


def test_this_week_against_last_week(tmp_path):
    runs = [
        write_run(tmp_path / "week1", "all-level", (0.9, 0.9, 0.9)),
        write_run(tmp_path / "control", "real-only", (0.3, 0.3, 0.1)),
        write_run(tmp_path / "week2", "all-level", (0.9, 0.9, 0.3)),
    ]
    last = compare(runs)[-1]
    assert set(last.against) == {"control", "week1"}
    assert any("week2 against week1: few" in line for line in last.regressions)
    assert not any("against control" in line for line in last.regressions)


def test_macro_f1_inside_and_outside(tmp_path):
    rows = [write_run(tmp_path / n, p, r, split="id_test") for n, p, r in
            (("c", "real-only", (0.5, 0.5, 0.5)), ("a", "adaptive", (0.8, 0.8, 0.9)))]  # fmt: skip
    ours = compare(rows)[1]
    labels, classes = np.load(tmp_path / "a" / "predictions" / "test.npy")
    assert numbers(ours.run)["ood_macro_f1"] == pytest.approx(f1_score(labels, classes, average="macro"))
    assert numbers(ours.run)["overall"] == pytest.approx(accuracy_score(labels, classes))
    assert ours.against["c"]["id_macro_f1"][1] > 0
    assert "ood_macro_f1" in as_text(table(compare(rows)))


def test_the_bootstrap_is_paired():
    """Two classifiers that differ on one image differ on one image in every draw."""
    labels = np.arange(1000) % 3
    first, second = labels.copy(), labels.copy()
    first[:400] = second[:400] = (labels[:400] + 1) % 3
    second[999] = (labels[999] + 1) % 3
    draws = bootstrap(lambda c, r: (c[r] == labels[r]).mean(), first, second, np.arange(1000))
    assert draws.min() >= 0 and draws.max() < 0.01 and draws.mean() == pytest.approx(0.001, abs=2e-4)


def test_what_is_refused(tmp_path):
    control = write_run(tmp_path / "control", "real-only", (0.9, 0.7, 0.3))
    other = write_run(tmp_path / "other", "none", (0.9, 0.7, 0.3), images=303)
    with pytest.raises(ConfigError, match=r"no run with curriculum\.policy = .real-only. among them"):
        compare([other])
    with pytest.raises(DataError, match="measured on different images of test"):
        compare([control, other])
    (tmp_path / "other" / "predictions" / "test.npy").unlink()
    with pytest.raises(ConfigError, match=r"test\.npy: cannot be read .*train again"):
        compare([control, other])
    for lacking in ({"methods": {}}, {"splits": {}, "policy": "none"}):
        (tmp_path / "other" / "metrics.json").write_text(json.dumps(lacking))
        with pytest.raises(ConfigError, match="no metrics of a finished training"):
            compare([control, other])


def test_published_rows_are_in_percent_and_plausible():
    for name, row in published().items():
        assert set(row) in ({"many", "medium", "few", "overall"}, {"ood_macro_f1", "id_macro_f1"}), name
        assert all(1 < value < 100 for value in row.values()), name
