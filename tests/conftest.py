"""Skips what this machine cannot run; everything else passes on a laptop."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small are slower on two threads; read when torch loads

import torch


def needs_gpu(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("gpu") or item.get_closest_marker("tensorrt"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in filter(needs_gpu, items):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    if config.pluginmanager.hasplugin("xdist"):  # one process runs a file's tests, and one all that fill the device
        for item in items:
            item.add_marker(pytest.mark.xdist_group("gpu" if needs_gpu(item) else item.path.name))
