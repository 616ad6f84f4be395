"""The slots that "auto" takes: the fewest that keep a device busy, measured once."""

import logging

import pytest
import torch

from discl import Engine
from discl.engine import slot_count
from discl.engine.slot_count import CANDIDATES, choose_slots, fewest
from tests.tiny import tiny_sd


@pytest.mark.parametrize(
    ("step_seconds", "slots"),
    [
        (lambda slots: 0.0001 + 0.001 * slots, 2),  # 91 %, 95.2 %, 97.6 % of the limit ...
        (lambda slots: 0.03 * max(1, slots / 8), 8),  # free up to 8 rows
        (lambda slots: 0.01, 128),  # never busy
        (lambda slots: 0.5 * slots, 1),  # long at once
        (lambda slots: 0.1 if slots <= 16 else None, 16),  # what memory allows
        (lambda slots: None, 1),  # one is tried, and fails with the engine's own words
        (lambda slots: 0.01 if slots <= 4 else 0.01 * slots, 4),  # worse beyond
    ],
)
def test_fewest(step_seconds, slots):
    assert fewest(step_seconds) == slots


def test_fewest_stops_where_more_is_no_better():
    asked = []
    fewest(lambda slots: asked.append(slots) or 0.001 * max(8, slots) ** 1.1)
    assert asked == [1, 2, 4, 8, 16]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def times(monkeypatch, tmp_path):
    """What a profile measures here, and how often it is asked; the user's cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []
    measure = lambda self, slots: asked.append(slots) or max(4, slots) / 1000  # noqa: E731
    monkeypatch.setattr(slot_count._StepTime, "__call__", measure)
    return asked


def test_a_count_is_kept_by_model_size_and_place(times, tiny_model, tmp_path):
    def slots(**options):
        with Engine.from_pretrained(tiny_model, device="cpu", steps=2, **options) as engine:
            return engine.slots

    assert slots() == 4
    count = len(times)
    assert slots() == 4 and len(times) == count
    assert slots(size=(32, 48)) == 4 and len(times) == 2 * count
    assert slots(size=(33, 48)) == 4 and len(times) == 2 * count  # rounded as images are
    assert slots(cache=str(tmp_path / "mine")) == 4 and len(times) == 3 * count
    assert slots(cache=str(tmp_path / "mine")) == 4 and len(times) == 3 * count
    assert slots(text_guidance=1.0) == 4 and len(times) == 4 * count  # one row a slot instead of two
    assert slots(slots=3) == 3 and len(times) == 4 * count


def test_damaged_and_unwritable_files_are_measured_anew(times, tiny_model, tmp_path, caplog):
    place = tmp_path / "place"

    def slots():
        with Engine.from_pretrained(tiny_model, device="cpu", steps=2, cache=str(place)) as engine:
            return engine.slots

    slots()
    (file,) = (place / "slots").glob("*.json")
    for damaged in ("", "[]", '{"slots": 1e9}', '{"slots": "8"}', '{"slots": true}', '{"slots": 8.0}'):
        file.write_text(damaged)
        assert slots() == 4
    assert file.read_text().startswith('{\n "slots": 4')
    (place / "slots").rename(tmp_path / "away")
    (place / "slots").write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert slots() == 4
    assert "cannot be written" in caplog.text


def test_the_profile_counts_rows_and_meets_the_end_of_memory(tiny_model, tmp_path, monkeypatch):
    from discl.engine.pretrained import load_model

    model = load_model(str(tiny_model), torch.device("cpu"), torch.float32)
    rows = []

    def denoise(x, timestep, condition):
        rows.append(len(x))
        assert len(timestep) == len(condition.states) == len(x) and x.shape[1:] == (4, 6, 8)
        if len(x) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(slot_count, "torch_denoiser", lambda *args, **options: denoise)
    cell = model.multiple
    slots = choose_slots(model, torch.device("cpu"), (8 * cell, 6 * cell), 7.5, str(tmp_path))
    assert set(rows) == {2, 4, 8, 16} and slots in (1, 2, 4)
    assert slots <= CANDIDATES[-1]
