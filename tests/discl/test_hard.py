"""Hard rows are training rows by the rule's own words."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from discl.data import DataTable
from discl.errors import ConfigError, DataError
from discl.hard import select_hard, tail_rows


def hard(rule, **keys):
    return SimpleNamespace(**{"rule": rule, "few_below": 3, "many_from": 4, "limit": 0, "list": ""} | keys)


def table(**columns):
    labels = np.array([0, 0, 0, 1, 1, 0, 1], dtype=np.int64)
    splits = ["train"] * 5 + ["val", "test"]
    ids = [f"image {number}" for number in range(7)]
    return DataTable(ids, ids, labels, splits, ("a", "b"), {k: list(v) for k, v in columns.items()})


def test_few_takes_whole_classes_below_the_bound():
    assert select_hard(hard("few"), table()).tolist() == [3, 4]
    assert select_hard(hard("few", few_below=4), table()).tolist() == [0, 1, 2, 3, 4]


def test_all_takes_the_training_split_only():
    rows = select_hard(hard("all"), table())
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert rows.dtype == np.int64


def test_the_limit_caps_the_rows_but_not_the_tail():
    assert select_hard(hard("few", limit=1), table()).tolist() == [3]
    assert tail_rows(hard("few", limit=1), table()).tolist() == [3, 4]


def test_list_takes_the_named_ids(tmp_path):
    (tmp_path / "list").write_text("image 4\nimage 0\n\n")
    assert select_hard(hard("list", list=str(tmp_path / "list")), table()).tolist() == [0, 4]
    (tmp_path / "list").write_text("image 5\n")
    with pytest.raises(
        ConfigError, match="list, row 1: 'image 5' is not the id of a training image; correct or remove"
    ):
        select_hard(hard("list", list=str(tmp_path / "list")), table())


def test_confidence_and_loss_read_a_column():
    data = table(confidence=[0.9, 0.1, 0.5, 0.2, 0.8, 0, 0], loss=[0, 3, 1, 2, 0, 9, 9])
    assert select_hard(hard("confidence", limit=2), data).tolist() == [1, 3]
    assert select_hard(hard("loss", limit=3), data).tolist() == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"needs hard\.limit"):
        select_hard(hard("loss"), data)
    with pytest.raises(ConfigError, match="needs a column 'confidence'"):
        select_hard(hard("confidence", limit=2), table())
    for wrong in ("", "x", "nan", None):
        with pytest.raises(DataError, match=rf"image 1: loss = '{wrong}' is no number; every training image"):
            select_hard(hard("loss", limit=2), table(loss=["1", wrong, "2", "3", "4", "", ""]))
    assert select_hard(hard("loss", limit=1), table(loss=["1", "9", "2", "3", "4", "", ""])).tolist() == [1]


def test_excluded_classes_have_no_candidates_and_stay_in_the_tail(tmp_path, caplog):
    data = table(confidence=[0.9, 0.1, 0.5, 0.2, 0.8, 0, 0], loss=[0, 3, 1, 2, 0, 9, 9])
    assert select_hard(hard("all", exclude=("b",)), data).tolist() == [0, 1, 2]
    assert select_hard(hard("confidence", limit=2, exclude=("a",)), data).tolist() == [3, 4]
    assert select_hard(hard("loss", threshold=0.5, exclude=("b",)), data).tolist() == [1, 2]
    few = hard("few", few_below=4, exclude=("b",))
    assert select_hard(few, data).tolist() == [0, 1, 2] and tail_rows(few, data).tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "list").write_text("image 4\n")
    assert select_hard(hard("list", list=str(tmp_path / "list"), exclude=("b",)), data).tolist() == [4]
    with pytest.raises(ConfigError, match=r"selects no training image; .*hard\.exclude"):
        select_hard(hard("all", exclude=("a", "b")), data)
    assert select_hard(hard("all", exclude=("bb",)), data).tolist() == [0, 1, 2, 3, 4]
    assert "class 'bb', which the data does not have; the nearest is 'b'" in caplog.text


def test_a_threshold_alone_or_with_a_limit():
    data = table(confidence=[0.9, 0.1, 0.5, 0.2, 0.8, 0, 0], loss=[0, 3, 1, 2, 0, 9, 9])
    assert select_hard(hard("confidence", threshold=0.5), data).tolist() == [1, 3]
    assert select_hard(hard("confidence", threshold=0.6, limit=1), data).tolist() == [1]
    assert select_hard(hard("loss", threshold=0.5), data).tolist() == [1, 2, 3]


def test_a_finished_training_tells_how_sure_it_is(tmp_path):
    """`discl hard` after a plain training: the probabilities are those of its checkpoint."""
    from discl.cli import main
    from discl.data import load_data
    from discl.hard_scores import scores
    from tests.discl.test_training import DIGITS, write_config

    config = write_config(tmp_path, DIGITS.replace("real-only", "none"))
    file = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match=r"hard\.run = .*: no finished training; give a folder"):
        select_hard(hard("confidence", limit=2, run=str(tmp_path / "run")), load_data(config.data))
    assert main(["train", str(file), "--out", str(tmp_path / "run")]) == 0
    data = load_data(config.data)
    found = scores(tmp_path / "run", data)
    np.testing.assert_array_equal(scores(tmp_path / "run", data)["loss"], found["loss"])
    train = data.rows("train")
    assert np.isnan(np.delete(found["confidence"], train)).all()
    assert ((found["confidence"][train] > 0) & (found["confidence"][train] < 1)).all()
    np.testing.assert_allclose(found["loss"][train], -np.log(found["confidence"][train]))
    for names, message in (
        (data.class_names[:-1], "it knows 10 classes, the data has 9; train it on"),
        (data.class_names[::-1], "its class 0 is 'zero', the data's is 'nine'; train it on"),
    ):
        with pytest.raises(ConfigError, match=f"hard.run = .*: {message}"):
            scores(tmp_path / "run", replace(data, class_names=names))
    sets = ["hard.rule=confidence", "hard.limit=7", f"hard.run={tmp_path / 'run'}"]
    args = [word for one in sets for word in ("--set", one)]
    assert main(["hard", str(file), *args, "--out", str(tmp_path / "hard")]) == 0
    chosen = (tmp_path / "hard" / "hard.txt").read_text().splitlines()
    lowest = train[np.argsort(found["confidence"][train])[:7]]
    assert chosen == [data.ids[row] for row in sorted(lowest)]


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Images in a folder, a run whose classifier counts how often it is asked, and the data."""
    from discl import hard_scores
    from discl.data import load_data
    from tests.discl import data_kinds

    for name in ("a/1", "a/2", "b/1", "b/2 ü"):
        data_kinds.save(tmp_path / f"data/{name}.png")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for file in ("config.toml", "metrics.json", "checkpoints/last.safetensors"):
        (run / file).write_text("{}")
    asked = []

    def inferred(given, table):
        asked.append(str(given))
        return np.linspace(0.1, 0.4, len(table.rows("train"))) + len(asked)

    monkeypatch.setattr(hard_scores, "_inferred", inferred)
    return SimpleNamespace(
        run=run, asked=asked, folder=tmp_path / "data",
        scores=lambda: hard_scores.scores(run, load_data(data_kinds.config("imagefolder", tmp_path / "data"))),
    )  # fmt: skip


def test_what_a_training_told_is_kept_for_these_images_and_weights(told):
    first = told.scores()
    (file,) = (told.run / "hard").iterdir()
    np.testing.assert_array_equal(told.scores()["confidence"], first["confidence"])
    assert len(told.asked) == 1
    file.write_bytes(file.read_bytes()[:-1])
    assert told.scores()["confidence"][0] == pytest.approx(2.1), "a damaged file is made anew"
    (told.run / "checkpoints" / "best.safetensors").write_text("others")
    assert told.scores()["confidence"][0] == pytest.approx(3.1), "other weights count now"
    (told.folder / "a" / "1.png").write_bytes((told.folder / "b" / "1.png").read_bytes() + b" ")
    assert told.scores()["confidence"][0] == pytest.approx(4.1), "an image is another one"
    (told.folder / "b" / "1.png").rename(told.folder / "a" / "3.png")
    assert told.scores()["confidence"][0] == pytest.approx(5.1), "a label is another one"
    assert told.scores()["confidence"][0] == pytest.approx(5.1)


def test_a_run_that_cannot_be_written_still_tells(told):
    (told.run / "hard").write_text("in the way")
    assert told.scores()["confidence"][0] == pytest.approx(1.1)
    assert told.scores()["confidence"][0] == pytest.approx(2.1)


def test_nothing_hard_says_what_to_raise():
    with pytest.raises(ConfigError, match=r"smallest class has 2, so raise hard\.few_below = 2"):
        select_hard(hard("few", few_below=2), table())
