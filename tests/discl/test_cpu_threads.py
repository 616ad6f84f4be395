"""On a CPU the number of threads is in an image's last bits: a restart keeps that of the store's first run."""

import pytest
import torch

from discl.cpu_threads import cpu_threads
from discl.generation import generate
from tests.discl.project import contents, loaded, make_project, runs


class Stopped(Exception):
    pass


def stop_after(samples: int):
    def listen(event) -> None:
        if event.get("event") == "progress" and event["stage"] == "generate" and event["done"] >= samples:
            raise Stopped

    return listen


def test_a_restart_computes_with_the_threads_of_the_first_run(tmp_path, tiny_models, caplog):
    file = make_project(tmp_path, tiny_models)
    png, here = "store.format=png", torch.get_num_threads()
    with cpu_threads(1):
        whole = contents(generate(loaded(file, png, f"store.path={tmp_path / 'whole'}")))
        with pytest.raises(Stopped):
            generate(loaded(file, png), stop_after(7))
    with cpu_threads(3):
        store = generate(loaded(file, png))
        assert torch.get_num_threads() == 3
        assert "computing with 1 CPU threads instead of 3" in caplog.text
    assert torch.get_num_threads() == here
    assert contents(store) == whole
    assert [run["threads"] for run in runs(store)] == [1, 1]
