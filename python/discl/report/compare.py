"""Folders of finished trainings in; their numbers beside the paper's, the control's and each other's out.

A difference comes with a 95 % interval of the paired bootstrap: test images are drawn with replacement, the same for
both runs. One real-only run is always the control, since resampling alone moves the few classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from json import loads
from typing import Any

import numpy as np

from discl.errors import ConfigError, DataError
from discl.evaluation import macro_f1
from discl.report.run_folder import Run, open_run

DRAWS, SEED, COVERED = 1000, 0, 0.95
CONTROL = "real-only"
ACCURACIES = ("many", "medium", "few", "overall")
GATED = ("overall", "few", "ood_macro_f1", "id_macro_f1")


@dataclass(frozen=True)
class Compared:
    """One run. numbers: column -> fraction. paper: the published row in percent, {} where there is none.

    against: name of the run it is compared with -> column -> (difference, low, high), fractions.
    """

    name: str
    run: Run
    numbers: dict[str, float]
    paper: dict[str, float]
    against: dict[str, dict[str, tuple[float, float, float]]]

    @property
    def facts(self) -> dict[str, Any]:
        """What it cost: policy, loss, seed, samples seen, steps, device-hours of training and of the spectrum."""
        metrics = self.run.metrics
        seconds = sum(metrics.get("seconds", {}).values())
        spectrum = 0.0 if metrics.get("policy") in (CONTROL, "none") else _spectrum_seconds(self.run)
        return {
            **{name: metrics.get(name) for name in ("policy", "loss", "seed", "samples", "steps", "device")},
            "hours": seconds * metrics.get("world", 1) / 3600,
            "spectrum_hours": spectrum / 3600,
        }

    @cached_property
    def regressions(self) -> list[str]:
        """Columns that fell for certain: the interval around the difference lies below zero."""
        return [
            f"{self.name} against {other}: {column} {100 * delta:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
            for other, columns in self.against.items()
            for column, (delta, low, high) in columns.items()
            if column in GATED and high < 0
        ]


def compare(folders: list[str]) -> list[Compared]:
    """The runs in their order. Each is compared with the control and with the first of the same policy and loss.

    Raises ConfigError where a folder holds no finished training or none of them is the control, DataError where runs
    were measured on different test images.
    """
    runs = [open_run(folder) for folder in folders]
    names = _names(runs)
    for run in runs:
        if not {"splits", "policy", "loss", "groups"} <= set(run.metrics):
            raise ConfigError(
                f"{run.folder}: no metrics of a finished training (metrics.json); finish it or leave it out"
            )
    control = next((at for at, run in enumerate(runs) if run.metrics["policy"] == CONTROL), None)
    if control is None:
        raise ConfigError(
            'no run with curriculum.policy = "real-only" among them, and resampling alone moves the few classes; train '
            "one (--set curriculum.policy=real-only) and add its folder"
        )
    first: dict[tuple, int] = {}
    out = []
    for at, run in enumerate(runs):
        same = first.setdefault((run.metrics["policy"], run.metrics["loss"], _paper(run)), at)
        others = {other for other in (control, same) if other != at}
        against = {names[other]: differences(run, runs[other]) for other in sorted(others)}
        out.append(Compared(names[at], run, numbers(run), published().get(_paper(run), {}), against))
    return out


def numbers(run: Run) -> dict[str, float]:
    """many, medium, few, overall of the headline split, and macro F1 inside and outside the training's distribution."""
    metrics, splits = run.metrics, run.metrics["splits"]
    found = {name: metrics.get(name) for name in ACCURACIES}
    if "id_test" in splits:
        found |= {"id_macro_f1": splits["id_test"]["macro_f1"], "ood_macro_f1": splits.get("test", {}).get("macro_f1")}
    return {name: value for name, value in found.items() if value is not None}


def published() -> dict[str, dict[str, float]]:
    """The paper's rows, in percent."""
    return loads((files("discl") / "configs" / "published.json").read_text("utf-8"))


def differences(run: Run, other: Run) -> dict[str, tuple[float, float, float]]:
    """column -> (difference of the metrics, and its interval)."""
    mine, theirs = numbers(run), numbers(other)
    out = {}
    for column in (name for name in mine if name in theirs):
        delta = mine[column] - theirs[column]
        low, high = _spread(run, other, column)
        out[column] = (delta, delta + low, delta + high)
    return out


def _spread(run: Run, other: Run, column: str) -> tuple[float, float]:
    """The interval's ends less the difference itself."""
    split = "id_test" if column.startswith("id_") else _headline(run)
    (labels, mine), (same, theirs) = predictions(run, split), predictions(other, split)
    if not np.array_equal(labels, same):
        raise DataError(
            f"{run.folder} and {other.folder} were measured on different images of {split}; use one data set"
        )
    rows = np.arange(len(labels))
    if column in ("many", "medium", "few"):
        rows = rows[_groups(run)[labels] == column]
    value = _macro_f1(labels) if "macro" in column else _accuracy(labels)
    draws = bootstrap(value, mine, theirs, rows)
    ends = np.quantile(draws, [(1 - COVERED) / 2, (1 + COVERED) / 2]) - (value(mine, rows) - value(theirs, rows))
    return float(ends[0]), float(ends[1])


def bootstrap(value: Callable[[np.ndarray, np.ndarray], float], mine, theirs, rows: np.ndarray) -> np.ndarray:
    """float64 [DRAWS]: the difference of `value(classes, rows)` over rows drawn with replacement, alike for both."""
    random = np.random.default_rng(SEED)
    drawn = (random.choice(rows, len(rows)) for _ in range(DRAWS))
    return np.array([value(mine, some) - value(theirs, some) for some in drawn])


def _accuracy(labels: np.ndarray):
    return lambda classes, rows: float((classes[rows] == labels[rows]).mean())


def _macro_f1(labels: np.ndarray):
    return lambda classes, rows: macro_f1(labels[rows], classes[rows]) or 0.0


def predictions(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predicted classes of a split, as the training left them."""
    file = run.folder / "predictions" / f"{split}.npy"
    try:
        labels, classes = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); train again, with this version") from error
    return labels, classes


def _groups(run: Run) -> np.ndarray:
    """Objects [C]: many, medium or few."""
    return np.array(run.metrics["groups"], dtype=object)


def _headline(run: Run) -> str:
    return next(split for split in ("test", "id_test", "val", "id_val") if split in run.metrics["splits"])


def _paper(run: Run) -> str:
    return run.config.report.paper if run.config else ""


def _spectrum_seconds(run: Run) -> float:
    return sum(record.get("seconds", {}).get("generate", 0.0) for record in run.records)


def _names(runs: list[Run]) -> list[str]:
    """Folder names; their whole paths where those repeat."""
    short = [run.folder.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]


def table(compared: list[Compared]) -> list[list[str]]:
    """The comparison as rows of text, the first of them headings: a run, then the paper's row for it."""
    columns = [
        name for name in (*ACCURACIES, "ood_macro_f1", "id_macro_f1") if any(name in one.numbers for one in compared)
    ]
    control = next(one.name for one in compared if one.run.metrics["policy"] == CONTROL)
    rows = [["run", "policy", "loss", *columns, f"vs {control}", "samples seen", "device-hours", "spectrum hours"]]
    for one in compared:
        facts = one.facts
        rows.append([
            one.name, facts["policy"], facts["loss"], *(_percent(one.numbers.get(name)) for name in columns),
            _against(one.against.get(control, {})), f"{facts['samples'] or 0:,}", f"{facts['hours']:.3g}",
            f"{facts['spectrum_hours']:.3g}",
        ])  # fmt: skip
        if one.paper:
            paper = [f"{one.paper[name]:.1f}" if name in one.paper else "–" for name in columns]
            rows.append([f"  paper: {_paper(one.run)}", "", "", *paper, "", "", "", ""])
    return rows


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _against(columns: dict[str, tuple[float, float, float]]) -> str:
    """`few +3.1 [+1.0, +5.2]` for what matters most."""
    name = next((one for one in ("few", "ood_macro_f1", "overall") if one in columns), None)
    if name is None:
        return "control"
    delta, low, high = (100 * value for value in columns[name])
    return f"{name} {delta:+.1f} [{low:+.1f}, {high:+.1f}]"


def as_text(rows: list[list[str]]) -> str:
    """Columns side by side."""
    starts = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, starts, strict=True)).rstrip() for row in rows
    )
