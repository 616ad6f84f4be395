import subprocess
import sys

import pytest
import torch

from discl.kernels import reference, to_uint8
from discl.kernels.dispatch import uses_triton


def test_importing_the_kernels_does_not_import_triton():
    code = "import sys, discl.kernels; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cpu_tensors_take_the_reference(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not uses_triton(torch.zeros(1))
    monkeypatch.setattr(reference, "to_uint8", lambda decoded: "the reference")
    assert to_uint8(torch.zeros(1, 3, 2, 2)) == "the reference"


def test_the_interpreter_takes_triton_while_its_switch_is_on(device, monkeypatch):
    monkeypatch.setattr(reference, "to_uint8", None)
    assert uses_triton(torch.zeros(1, device=device))
    assert to_uint8(torch.zeros(1, 3, 2, 2, device=device)).tolist() == [[[[128] * 3] * 2] * 2]


def test_the_interpreter_leaves_triton_as_it_was(monkeypatch):
    language = pytest.importorskip("triton.language")
    before = (language.sum, language.load, language.where, language.tensor.__add__)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    to_uint8(torch.zeros(1, 3, 2, 2))
    assert (language.sum, language.load, language.where, language.tensor.__add__) == before
