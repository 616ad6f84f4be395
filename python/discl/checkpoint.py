"""The state of a training as one safetensors file: tensors, and JSON in its header. One atomic write."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from discl.atomic import remove_leftovers, write_atomic
from discl.errors import ConfigError, ModelError, RunFailed

NAME = "last.safetensors"


class Checkpoints:
    """Writes `folder`/last.safetensors, `due` every `seconds`, and reads it back.

    identity: what must be equal for a training to be continued (a digest of its config and data). `pinned` is
    JSON that goes into every checkpoint: what else the training stands on.
    """

    def __init__(self, folder: str | Path, identity: str = "", seconds: float = 60.0):
        self.path, self.identity, self.seconds = Path(folder) / NAME, identity, seconds
        self.pinned: dict = {}
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._written >= self.seconds

    def write(self, model, optimizer, state: dict) -> None:
        """`state` is JSON: position in the order, history. Raises RunFailed when the disk refuses."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        for number, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in entries.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        data = save(tensors, {"state": json.dumps(state | self.pinned | {"identity": self.identity})})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path.parent)
            write_atomic(self.path, data)
        except OSError as error:
            raise RunFailed(
                f"{self.path}: the checkpoint cannot be written: {error.strerror or error}; the one before it is "
                "kept: make room and start again"
            ) from error
        self._written = time.monotonic()

    def state(self) -> dict | None:
        """What was written beside the tensors; None where there is no checkpoint.

        Raises ModelError for a damaged or foreign file, ConfigError for a checkpoint of another run.
        """
        if not self.path.exists():
            return None
        state = read_state(self.path)
        if state is None:
            raise ModelError(f"{self.path}: not a checkpoint of a training; remove it or use another --out")
        if state["identity"] != self.identity:
            raise ConfigError(
                f"{self.path}: belongs to a run with another config or other data; use another --out, or "
                "remove that folder to start again"
            )
        return state

    def read(self, model, optimizer) -> dict | None:
        """Put the tensors back in place and return the state; None where there is no checkpoint.

        Raises what `state` raises, and ModelError for weights of another model.
        """
        state = self.state()
        if state is None:
            return None
        tensors, _ = read_tensors(self.path)
        load_weights(model, part(tensors, "model."), self.path)
        entries: dict[int, dict] = {}
        for name, value in part(tensors, "optimizer.").items():
            number, key = name.split(".", 1)
            entries.setdefault(int(number), {})[key] = value
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        laid = {number: _laid_out(entries[number], parameters[number]) for number in entries}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": laid})
        return state


def _laid_out(entries: dict, parameter: torch.Tensor) -> dict:
    """A parameter's optimizer state in the parameter's own memory layout: fused optimizers walk over both alike."""
    return {
        name: torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
        if value.shape == parameter.shape
        else value
        for name, value in entries.items()
    }


def part(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict | None]:
    """The tensors of a safetensors file and its JSON state, if it has one. Raises ModelError."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _state(file)  # noqa: SIM118


def read_state(path: str | Path) -> dict | None:
    """The JSON state alone. Raises ModelError."""
    with _opened(path) as file:
        return _state(file)


def _state(file) -> dict | None:
    state = (file.metadata() or {}).get("state")
    return state and json.loads(state)


@contextmanager
def _opened(path: str | Path) -> Iterator:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as a safetensors file: {error}") from error


def load_weights(model: torch.nn.Module, tensors: dict, path: str | Path) -> None:
    """Copy weights into the model's own tensors, so that compiled code stays valid. Raises ModelError."""
    own = {name: value.shape for name, value in model.state_dict().items()}
    given = {name: value.shape for name, value in tensors.items()}
    wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"{path}: {name} has shape {list(given.get(name, [])) or 'none'}, the model wants "
            f"{list(own.get(name, [])) or 'none'}; use weights of the same model and classes"
        )
    model.load_state_dict(tensors)
