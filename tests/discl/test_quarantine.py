"""Damaged pictures in a run: quarantined with their reason and counted; too many of them stop it."""

import json
from pathlib import Path

import pytest

from discl.errors import RunFailed
from discl.store import Store, verify
from tests.discl.project import fake, loaded, make_project, runs

pytestmark = pytest.mark.usefixtures("fake_weights")
PLANNED = 5 * 2 * 2


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


def damage(file: Path) -> Path:
    """Damage in the middle of a picture whose end is sound: it shows when the picture is decoded."""
    picture = file.parent / "data" / "red fox" / "1.png"
    data = picture.read_bytes()
    picture.write_bytes(data[:200] + bytes(100) + data[300:])
    return picture


def test_a_damaged_picture_is_quarantined_and_the_run_goes_on(file):
    picture, events = damage(file), []
    for _ in range(2):
        store = fake(file, on_event=events.append)
    assert len(store) == PLANNED - 4
    lines = (Path(store.path) / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == [str(picture)]
    assert lines[0].count(str(picture)) == 1, "the reason does not repeat the path"
    assert {event["path"] for event in events if event["event"] == "quarantined"} == {str(picture)}
    assert runs(store)[0]["counts"]["quarantined"] == 1


def test_too_many_damaged_pictures_stop_the_run_and_leave_it_resumable(file):
    damage(file)
    with pytest.raises(RunFailed, match="1 of 11 images") as caught:
        fake(file, "data.max_bad_share=0.05")
    assert caught.value.exit_code == 1
    store = Store(loaded(file).store.path)
    assert verify(store.path) == []
    assert len(fake(file)) == PLANNED - 4


def test_the_share_of_bad_pictures_is_of_all_images_not_of_the_hard_ones(file):
    damage(file)  # 1 of 5 hard images, 1 of 11 in all
    assert len(fake(file, "data.max_bad_share=0.1")) == PLANNED - 4


def test_bad_pictures_found_at_loading_and_later_are_counted_together(file):
    later, first = damage(file), file.parent / "data" / "common" / "0.png"
    first.write_bytes(b"no picture")
    with pytest.raises(RunFailed, match="2 of 11 images") as caught:
        fake(file, "data.max_bad_share=0.1")
    lines = (file.parent / "store" / "quarantine.jsonl").read_text().splitlines()
    assert {json.loads(line)["path"] for line in lines} == {str(first), str(later)}
    assert {line.count(str(file.parent)) for line in lines} == {1}, "reasons do not repeat the path"
    assert str(caught.value).count(str(later)) == 1
