"""Where the kernels run in these tests: in Triton's interpreter everywhere, and on a GPU if there is one."""

import pytest
import torch


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device on which the launchers choose Triton."""
    if request.param == "cuda":
        return torch.device("cuda")
    # Imported before the switch is on: Triton's own library would otherwise stay interpreted for later tests.
    pytest.importorskip("triton.language")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")
