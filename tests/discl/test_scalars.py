"""What TensorBoard reads back is what the log holds; without the package there is nothing."""

import pytest

from discl import scalars

RECORDS = [
    {"loss": 2.0 - n, "steps": 5 * n + 5, "val": {"overall": 0.25 * n, "few": None}, "spent": {"loader": 0.5}}
    for n in range(2)
]


def write(folder):
    writer = scalars.Scalars(folder)
    for record in RECORDS:
        writer.write(record)
    writer.close()


def test_tensorboard_reads_the_records(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "val/overall", "seconds/loader"}
    assert [(event.step, event.value) for event in events.Scalars("val/overall")] == [(5, 0.0), (10, 0.25)]
    assert [event.value for event in events.Scalars("loss")] == [2.0, 1.0]


def test_without_the_package_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(scalars, "find_spec", lambda name: None)
    write(tmp_path / "tensorboard")
    assert not list(tmp_path.iterdir())
