"""What is interrupted: samples into a store, a selection, checkpoints. And what must hold afterwards."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from discl.checkpoint import Checkpoints, read_tensors
from discl.store import Store, StoreWriter, verify
from discl.store.shard import unsealed_numbers
from tests.discl.store_samples import check, key, sample

COUNT = 14
PARTS = ("samples", "selection", "checkpoint")
Tell = Callable[[str, int], None]


def open_writer(root: Path) -> StoreWriter:
    return StoreWriter(root / "store", "run", shard_bytes=9_000, sync_samples=3, sync_seconds=60)


@cache
def learner(step: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer; every weight is `step`."""
    model = torch.nn.Linear(40, 30)
    for weight in model.parameters():
        torch.nn.init.constant_(weight, float(step))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def run(root: Path, tell: Tell) -> None:
    """All of the work that is not done yet; `tell` hears of each part how far it is durable."""
    with open_writer(root) as writer:
        for i in range(COUNT):
            if key(i) not in writer.keys:
                writer.append(*sample(i))
            if i % 3 == 2:
                writer.flush()
                tell("samples", i + 1)
    tell("samples", COUNT)
    store = Store(root / "store")
    chosen = store.selection_rule("default")["version"] if selections(root) else 0
    tell("selection", chosen)  # a run killed between writing and telling left it
    for version in range(chosen + 1, 3):
        store.write_selection("default", [key(4 * version)], {"version": version})
        tell("selection", version)
    done = checkpoint_step(root)
    tell("checkpoint", done)
    for step in range(done + 1, 3):
        Checkpoints(root / "out", "one").write(*learner(step), {"step": step})
        tell("checkpoint", step)


def recovered(root: Path, durable: dict[str, int]) -> int:
    """What `run` had made durable is there and nothing is damaged; returns how many samples there are."""
    with open_writer(root) as writer:
        keys = set(writer.keys)
    missing = {key(i) for i in range(durable["samples"])} - keys
    assert not missing, f"{len(missing)} durable samples are lost"
    store = Store(root / "store")
    assert sorted(store.keys()) == sorted(keys) == sorted(set(keys))
    assert verify(root / "store") == []
    assert unsealed_numbers(root / "store") == []
    if "default" in selections(root):
        version = store.selection_rule("default")["version"]
        assert durable["selection"] <= version <= durable["selection"] + 1
        assert store.selection("default") == [key(4 * version)]
    else:
        assert durable["selection"] == 0
    step = checkpoint_step(root)
    assert durable["checkpoint"] <= step <= durable["checkpoint"] + 1
    return len(keys)


def selections(root: Path) -> list[str]:
    return [path.stem for path in (root / "store/selections").glob("*.parquet")]


def checkpoint_step(root: Path) -> int:
    """0 where there is none; its weights are those of its step."""
    checkpoints = Checkpoints(root / "out", "one")
    state = checkpoints.state()
    if state is None:
        return 0
    tensors, _ = read_tensors(checkpoints.path)
    assert all(bool((value == state["step"]).all()) for name, value in tensors.items() if name.startswith("model."))
    return state["step"]


def finished(root: Path) -> None:
    """The work is done, as if nothing had ever happened."""
    check(Store(root / "store"), COUNT)
    assert recovered(root, {"samples": COUNT, "selection": 2, "checkpoint": 2}) == COUNT
    left = [path.name for path in (root / "store/shards").iterdir() if path.suffix != ".tar"]
    assert not left, left
