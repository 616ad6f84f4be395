"""One judge per store: what another CLIP, prompt or none meets in a store that is scored already."""

from pathlib import Path

import pytest

from discl.errors import StoreError
from discl.store import Store
from tests.discl.project import FakeEngine, contents, fake, loaded, make_project, no_engine, without_score

pytestmark = pytest.mark.usefixtures("fake_weights")
PLANNED = 5 * 2 * 2


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


class OtherWeights(FakeEngine):
    def __init__(self, config, slots):
        super().__init__(config, slots)
        self.scorer.digest = "6" * 32


@pytest.mark.parametrize("recipe", ["spectrum.steps=4", "spectrum.steps=6"])
def test_another_prompt_or_other_weights_in_the_same_column_are_refused(file, recipe):
    before = contents(fake(file))
    with pytest.raises(StoreError, match="were scored with"):
        fake(file, recipe, "score.prompt=the {class}", make=no_engine)
    with pytest.raises(StoreError, match="were scored with"):
        fake(file, recipe, "spectrum.seeds=3", make=OtherWeights)
    assert contents(Store(loaded(file).store.path)) == before


@pytest.mark.parametrize("recipe", ["spectrum.steps=4", "spectrum.steps=6"])
def test_another_clip_is_refused_before_the_engine_is_loaded(file, monkeypatch, recipe):
    rule = fake(file).selection_rule("default")
    monkeypatch.setattr("discl.judge.clip_digest", lambda name: "6" * 32)
    with pytest.raises(StoreError, match=r"were scored with .*clip .*now \[score\] is .*other"):
        fake(file, recipe, "score.clip=other", make=no_engine)
    assert Store(loaded(file).store.path).selection_rule("default") == rule


def test_weights_that_changed_under_their_name_are_noticed_although_nothing_is_missing(file, monkeypatch):
    fake(file)
    monkeypatch.setattr("discl.judge.clip_digest", lambda name: "6" * 32)
    with pytest.raises(StoreError, match=r"weights 55555555.*weights 66666666"):
        fake(file, make=no_engine)


def test_a_clip_that_moved_is_the_same_judge(file):
    before = contents(fake(file))
    assert contents(fake(file, "score.clip=elsewhere", make=no_engine)) == before


@pytest.mark.parametrize("recipe", ["spectrum.steps=4", "spectrum.steps=6"])
def test_scored_and_unscored_images_do_not_share_a_store(file, recipe):
    unscored = without_score(file)
    for first, second, folder in ((file, unscored, "one"), (unscored, file, "two")):
        fake(first, f"store.path={folder}")
        with pytest.raises(StoreError, match="no scorer"):
            fake(second, f"store.path={folder}", recipe, make=no_engine)


def test_a_run_that_made_nothing_does_not_bind_the_store(file):
    class Idle(OtherWeights):
        def run(self, requests):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake(file, make=Idle)
    assert len(fake(file)) == PLANNED


def test_what_a_killed_run_left_unsealed_binds_the_judge_and_the_slots(file, monkeypatch):
    class Dies(FakeEngine):
        def run(self, requests):
            for number, sample in enumerate(super().run(requests)):
                if number == 4:
                    raise KeyboardInterrupt
                yield sample

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("discl.store.StoreWriter._seal", lambda writer: None)
        fake(file, "engine.slots=7", make=Dies)
    assert not list((file.parent / "store" / "manifest").iterdir())
    with monkeypatch.context() as killed:  # nor does the refused run seal it
        killed.setattr("discl.store.StoreWriter._seal", lambda writer: None)
        with pytest.raises(StoreError, match="were scored with"):
            fake(file, "score.prompt=the {class}", make=no_engine)
    asked = []

    class Asked(FakeEngine):
        def __init__(self, config, slots):
            asked.append(slots)
            super().__init__(config, slots)

    assert len(fake(file, "engine.slots=auto", make=Asked)) == PLANNED
    assert asked == [7]


def test_a_record_that_is_gone_is_told_and_a_damaged_one_refused(file, caplog):
    store = fake(file)
    (record,) = (Path(store.path) / "runs").glob("*.json")
    record.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        fake(file, make=no_engine)
    record.unlink()
    fake(file, make=no_engine)
    assert "unknown which CLIP scored its images" in caplog.text
