"""Tiny random-weight models, built once per test session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A folder that holds `sd` (Stable Diffusion 1.x) and `clip` (open_clip), random weights."""
    from tests.tiny import tiny_clip, tiny_sd

    folder = tmp_path_factory.mktemp("models")
    tiny_sd(folder / "sd")
    tiny_clip(folder / "clip")
    return folder


@pytest.fixture
def fake_weights(monkeypatch):
    """The weights of a CLIP that no engine loads are those that the fake engine has."""
    monkeypatch.setattr("discl.judge.clip_digest", lambda name: "5" * 32)
