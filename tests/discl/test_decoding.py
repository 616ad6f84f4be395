"""The trial of decode settings keeps the fastest for the loop around it, and says so."""

import json

import pytest
import torch

from discl.dataset import SpectrumDataset
from discl.decoding import CPU, SETTLING, Decoding, Tuner, decodings
from discl.errors import ConfigError
from discl.loader import CurriculumLoader
from discl.torch_loader import TorchLoader
from tests.discl.loading import CROPS, PLAIN, RESAMPLED, assert_same, loader, textured
from tests.discl.spectrum_samples import make_store, make_table

THREE = tuple(Decoding(name, "cpu") for name in ("first", "second", "third"))


@pytest.fixture
def data(tmp_path):
    return SpectrumDataset(make_store(tmp_path / "store"), make_table(tmp_path / "data"))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run(tuner, clock, seconds, batches):
    """Batches that take `seconds[setting]`; returns the settings in use."""
    used = []
    for _ in range(batches):
        used.append(tuner.current.name)
        clock.now += seconds[tuner.current.name]
        tuner.count_batch()
    return used


@pytest.mark.parametrize("fastest", ["first", "second", "third"])
def test_each_setting_has_its_share_and_the_fastest_stays(fastest):
    clock = Clock()
    tuner = Tuner(THREE, 60, clock)
    seconds = {setting.name: 1.0 if setting.name == fastest else 2.0 for setting in THREE}
    used = run(tuner, clock, seconds, 80)
    assert used[:63] == [name for name in ("first", "second", "third") for _ in range(21)]  # one opens each share
    assert set(used[63:]) == {fastest} == {tuner.chosen}
    assert tuner.seconds_per_batch == seconds
    assert not tuner.count_batch()


def test_settling_batches_and_pauses_between_epochs_do_not_count():
    clock = Clock()
    tuner = Tuner(THREE[:2], 2 * (SETTLING + 4), clock)
    for setting, fast in (("first", 1.0), ("second", 2.0)):
        for _ in range(SETTLING + 1):
            clock.now += 50.0 / fast
            tuner.count_batch()
        assert tuner.current.name == setting
        while tuner.current.name == setting and not tuner.chosen:
            clock.now += 1000.0  # validation between epochs of one batch each
            tuner.begin()
            tuner.count_batch()
            clock.now += fast
            tuner.count_batch()
    assert tuner.seconds_per_batch == {"first": 1.0, "second": 2.0}
    assert tuner.chosen == "first"


def test_one_setting_needs_no_trial():
    tuner = Tuner([CPU], 200)
    assert tuner.chosen == "cpu" and not any(tuner.count_batch() for _ in range(300))


def test_what_a_device_offers():
    assert decodings("auto", torch.device("cpu")) == (CPU,)
    assert [d.name for d in decodings("auto", torch.device("cuda"))] == ["mixed", "hardware", "cpu"]
    assert decodings("hardware", torch.device("cuda:1"))[0].options == {"device": "mixed", "hw_decoder_load": 0.65}
    with pytest.raises(ConfigError, match="decode = 'mixed' on device cpu: expected one of auto, cpu"):
        decodings("mixed", torch.device("cpu"))


@pytest.mark.parametrize("fastest", ["first", "second", "third"])
def test_batches_are_the_same_while_settings_change(data, monkeypatch, fastest):
    """Three settings that differ in name only: pipelines are exchanged in the middle of epochs."""
    textured(data)
    clock = Clock()
    monkeypatch.setattr("discl.loader.decodings", lambda decode, device: THREE)
    events = []
    source = loader(CurriculumLoader, data, CROPS)
    source = CurriculumLoader(data, source.sampler, CROPS, trial=3, on_event=events.append)
    source.tuner.clock = clock
    plain = loader(TorchLoader, data, CROPS)
    for _ in range(9):
        for first, second in zip(source, plain, strict=True):
            assert_same(first, second, **RESAMPLED)
            clock.now += 1.0 if source.tuner.current.name == fastest else 2.0
    (event,) = events
    assert event["event"] == "decoding" and event["chosen"] == fastest
    assert set(event["seconds_per_batch"]) == {"first", "second", "third"}
    state = json.loads(json.dumps(source.state_dict()))
    resumed = loader(CurriculumLoader, data, CROPS)
    resumed.load_state_dict(state)
    assert resumed.tuner.chosen == event["chosen"] and resumed.state_dict() == state


@pytest.mark.gpu
@pytest.mark.parametrize("decode", ["cpu", "mixed", "hardware"])
def test_a_gpu_decodes_to_the_same_batches(data, decode):
    textured(data)
    sampler = loader(CurriculumLoader, data, PLAIN).sampler
    source, plain = (
        CurriculumLoader(data, sampler, CROPS, device="cuda", decode=decode),
        loader(TorchLoader, data, CROPS),
    )
    for first, second in zip(source, plain, strict=True):
        assert first["image"].is_cuda
        assert_same({**first, "image": first["image"].cpu()}, second, **RESAMPLED)


@pytest.mark.gpu
def test_a_gpu_chooses_one_of_three(data):
    sampler, events = loader(CurriculumLoader, data, PLAIN).sampler, []
    source = CurriculumLoader(data, sampler, PLAIN, device="cuda", trial=21, on_event=events.append)
    while not events:
        for batch in source:
            assert batch["image"].is_cuda
    assert source.state_dict()["decoding"] == events[0]["chosen"] in ("mixed", "hardware", "cpu")
