"""Damaged and forged manifests, indexes, embeddings, selections, shards and journals: a StoreError or the truth."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("rounds", "seed"), [(100, 21), pytest.param(5000, 22, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_whatever_is_read_is_a_clear_error_or_the_truth(tmp_path, rounds, seed):
    """In a process of its own: one that crashes must not take the tests along."""
    command = [sys.executable, "-m", "tests.discl.fuzz_store", tmp_path, str(rounds), str(seed)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-4000:]}"
    assert done.stdout.endswith(f"{rounds} rounds\n")
