"""What the engine's tests share."""

import pytest

from discl.engine import slot_count


@pytest.fixture(autouse=True)
def no_profile(request, monkeypatch):
    """`slots="auto"` is 8 without a search, which takes seconds for each of the many models here."""
    if request.module.__name__.rpartition(".")[2] != "test_slot_count":
        monkeypatch.setattr(slot_count, "CANDIDATES", (8,))
