"""Which weights of a training count: the last, the best epoch on the validation split, or a blend with the first."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from discl.atomic import write_atomic
from discl.checkpoint import NAME, load_weights, part, read_state, read_tensors
from discl.clip_classifier import blend
from discl.errors import ConfigError

BEST, BLEND = "best.safetensors", "blend.safetensors"  # beside the checkpoint
SHARES = tuple(number / 10 for number in range(11))


def counting_weights(out: Path) -> Path:
    """Whose weights count in a training's folder: the blend's, else the best's, else the last's. May not exist."""
    files = [out / "checkpoints" / name for name in (BLEND, BEST, NAME)]
    return next((file for file in files if file.is_file()), files[-1])


class Kept:
    """config: TrainConfig (select, ensemble). judge: measures on the selection split; None where there is none.

    Raises ConfigError where a choice needs a validation split and the data has none: nothing is chosen on test.
    """

    def __init__(self, config, learner, judge: Callable[[], dict] | None, out: Path):
        self.config, self.learner, self.judge = config, learner, judge
        self.file = out / "checkpoints" / BEST
        self.first = {name: value.clone() for name, value in self._weights().items()} if config.ensemble != 1 else {}
        for key, value in (("select", config.select), ("ensemble", config.ensemble)):
            if judge is None and value not in ("last", 1, 1.0) and not isinstance(value, float):
                raise ConfigError(f'train.{key} = "{value}" needs a split val or id_val; add one, or remove the key')
        self.best = self._read()

    @property
    def metric(self) -> str:
        return "overall" if self.config.select == "last" else self.config.select

    @property
    def validate(self) -> Callable[[], dict] | None:
        return self._validate if self.judge else None

    def _validate(self) -> dict:
        assert self.judge is not None
        found = self.judge()
        value = found[self.metric]
        if self.config.select != "last" and value is not None and (self.best is None or value > self.best):
            self.best = value
            self._write(self.file, {"value": value})
        return found

    def restore(self, history: list[dict]) -> dict:
        """Put the weights that count into the model; tells which they are."""
        self.learner.ranks.gather(None)  # the first rank has written the best
        if self.config.select == "last":
            return self._ensemble() | {"epoch": history[-1]["epoch"], "by": "last"}
        values = [record["val"][self.metric] for record in history]
        epoch = max(range(len(values)), key=lambda number: values[number] or 0.0)  # the first of equals
        load_weights(self.learner.model, part(read_tensors(self.file)[0], "model."), self.file)
        return self._ensemble() | {"epoch": epoch, "by": self.metric}

    def _ensemble(self) -> dict:
        if not self.first:
            return {}
        last = {name: value.clone() for name, value in self._weights().items()}
        share, scores = self.config.ensemble, {}
        if share == "auto" and self.judge:
            for one in SHARES:
                blend(self.learner.model, self.first, last, one)
                scores[one] = self.judge()[self.metric] or 0.0
            share = max(scores, key=lambda one: (scores[one], one))
        blend(self.learner.model, self.first, last, share)
        self._write(self.file.with_name(BLEND), {"ensemble": share})
        return {"ensemble": share}

    def _weights(self) -> dict:
        return {name: value.detach() for name, value in self.learner.model.state_dict().items()}

    def _write(self, file: Path, state: dict) -> None:
        """The model's weights as a checkpoint names them; by the first rank."""
        if self.learner.ranks.first:
            file.parent.mkdir(parents=True, exist_ok=True)
            tensors = {f"model.{name}": value.cpu().contiguous() for name, value in self._weights().items()}
            write_atomic(file, save(tensors, {"state": json.dumps(state)}))

    def _read(self) -> float | None:
        """The best value of a training that is continued."""
        if self.config.select == "last" or not self.file.is_file():
            return None
        return (read_state(self.file) or {}).get("value")
