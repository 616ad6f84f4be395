"""The weekly loop: new images arrive, a class is added, a source is forgotten; only what is missing is asked for."""

import numpy as np
import pytest

from discl.cli import main
from discl.cli.plan_summary import Planned
from discl.dataset import SpectrumDataset
from discl.store import Store, verify
from discl.store.forget import forget
from tests.discl.picture_samples import picture
from tests.discl.project import fake, loaded, make_project


def to_make(file, capsys, store, out):
    """What `discl plan --against` says and lists."""
    capsys.readouterr()
    assert main(["plan", str(file), "--against", str(store), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    rows = [line.split("\t") for line in (out / "missing.tsv").read_text().splitlines()]
    assert rows[0] == ["key", "source_id", "level", "seed", "retry"]
    assert f"{len(rows) - 1:,} to make" in text
    return {(row[1], int(row[2]), int(row[3])) for row in rows[1:]}


def hard_lists(store):
    return [file.read_text().split("\n")[:-1] for file in sorted((store / "runs").glob("*.hard.txt"))]


def every(*sources):
    return {(source, level, seed) for source in sources for level in (0, 50) for seed in (10, 20)}


@pytest.fixture
def project(tmp_path, tiny_models, fake_weights):
    return make_project(tmp_path, tiny_models, {"fox": 2, "common": 6})


def test_three_weeks(project, capsys):
    folder, store = project.parent, project.parent / "store"
    plan_out = folder / "plan"
    first = ("fox/0.png", "fox/1.png")
    assert {(one.source_id, one.level, one.seed) for one in Planned(loaded(project)).missing()} == every(*first)
    fake(project)
    assert to_make(project, capsys, store, plan_out) == set()

    # second week: one more fox, and a class of its own, which comes first: the others' numbers shift
    (folder / "data" / "fox" / "2.png").write_bytes(picture(901))
    (folder / "data" / "ant").mkdir()
    (folder / "data" / "ant" / "0.png").write_bytes(picture(902))
    second = ("fox/2.png", "ant/0.png")
    before = set(Store(store).keys())
    assert to_make(project, capsys, store, plan_out) == every(*second)
    fake(project)
    assert before < set(Store(store).keys()) and len(Store(store)) == len(before) + 8

    # third week: somebody withdraws an image
    assert forget(store, ["fox/0.png"]) == 4
    (folder / "data" / "fox" / "0.png").unlink()
    assert to_make(project, capsys, store, plan_out) == set()
    left = {row["source_id"] for row in Store(store).table.to_pylist()}
    assert left == {"fox/1.png", *second}
    (folder / "data" / "fox" / "3.png").write_bytes(picture(903))
    assert to_make(project, capsys, store, plan_out) == every("fox/3.png")
    fake(project)
    assert verify(store) == []
    assert to_make(project, capsys, store, plan_out) == set()

    # what was made in any week is trained on as what it is
    dataset = SpectrumDataset(Store(store), loaded(project).data, list(Store(store).keys()))
    assert dataset.class_names == ("ant", "common", "fox")
    class_of = {row["key"]: row["class_name"] for row in Store(store).table.to_pylist()}
    made = np.flatnonzero(dataset.is_synth)
    assert len(made) and [dataset.class_names[dataset.labels[row]] for row in made] == [
        class_of[dataset.ids[row]] for row in made
    ]

    # every run kept the list that it had, but for what was forgotten
    assert hard_lists(store) == [
        ["fox/1.png"], ["ant/0.png", "fox/1.png", "fox/2.png"], ["ant/0.png", "fox/1.png", "fox/2.png", "fox/3.png"]
    ]  # fmt: skip


def test_another_store_may_be_compared_with(project, capsys, tmp_path):
    fake(project)
    nowhere = tmp_path / "nowhere"
    assert to_make(project, capsys, nowhere, tmp_path / "p") == every("fox/0.png", "fox/1.png")
    assert not nowhere.exists(), "a plan writes nothing there"
