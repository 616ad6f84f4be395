"""A DataTable and the [hard] table in, the rows that need synthetic images out (paper 1.8)."""

import logging
from pathlib import Path

import numpy as np

from discl.data import DataTable
from discl.errors import ConfigError, DataError, nearest

log = logging.getLogger(__name__)


def select_hard(config, table: DataTable) -> np.ndarray:
    """int64 row numbers of `table`, all of the train split, by `config` (HardConfig: rule, few_below, limit).

    few: classes with fewer than `few_below` training images. all: every training row. list: the ids in the
    file `list`, one per line. confidence, loss: the rows below `threshold` (loss: above it), the `limit` least certain
    ones, or both; by the data's column of that name or by the classifier of the training in the folder `run`.
    Elsewhere `limit` caps the rows in table order (0: no cap). Classes in `exclude` have no candidates but those of a
    list. Raises ConfigError when nothing remains.
    """
    if config.rule not in RULES:
        raise ConfigError(f"hard.rule = {config.rule!r}; expected one of {', '.join(RULES)}")
    rows = RULES[config.rule](config, table)
    if not len(rows):
        raise ConfigError(f"hard.rule = {config.rule!r} selects no training image; {_advice(config, table)}")
    return rows[: config.limit] if config.limit else rows


def tail_rows(config, table: DataTable, hard: np.ndarray | None = None) -> np.ndarray:
    """int64 rows of the curriculum's tail: the few classes whole, whatever the limit; else the hard rows.

    hard: what `select_hard` found, where it is at hand.
    """
    if config.rule == "few":
        return _of_few_classes(config, table, table.rows("train"))
    return select_hard(config, table) if hard is None else hard


def _of_few_classes(config, table: DataTable, rows: np.ndarray) -> np.ndarray:
    return rows[table.train_counts[table.labels[rows]] < config.few_below]


def _candidates(config, table: DataTable) -> np.ndarray:
    """Training rows of the classes that may have a spectrum."""
    rows, names = table.rows("train"), getattr(config, "exclude", ())
    for name in names:
        if name not in table.class_names:
            near = nearest(name, table.class_names)
            log.warning("hard.exclude names the class %r, which the data does not have; the nearest is %r", name, near)
    excluded = [label for label, name in enumerate(table.class_names) if name in names]
    return rows[~np.isin(table.labels[rows], excluded)]


def _few(config, table: DataTable) -> np.ndarray:
    return _of_few_classes(config, table, _candidates(config, table))


def _all(config, table: DataTable) -> np.ndarray:
    return _candidates(config, table)


def _listed(config, table: DataTable) -> np.ndarray:
    try:
        lines = Path(config.list).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"hard.list = {config.list}: cannot be read as UTF-8 text: {error}; check the path"
        ) from error
    train = {table.ids[row]: row for row in table.rows("train")}
    for number, line in enumerate(lines, start=1):
        if line and line not in train:
            raise ConfigError(
                f"{config.list}, row {number}: {line!r} is not the id of a training image; correct or remove the row"
            )
    return np.array(sorted({train[line] for line in lines if line}), dtype=np.int64)


def _least_confident(config, table: DataTable) -> np.ndarray:
    return _lowest(config, table, _numbers(config, table, "confidence"), getattr(config, "threshold", None))


def _largest_loss(config, table: DataTable) -> np.ndarray:
    threshold = getattr(config, "threshold", None)
    bound = None if threshold is None else -threshold
    return _lowest(config, table, -_numbers(config, table, "loss"), bound)


def _lowest(config, table: DataTable, values: np.ndarray, bound: float | None) -> np.ndarray:
    """Training rows with a value below `bound`, of these the `limit` lowest, in table order."""
    if not config.limit and bound is None:
        raise ConfigError(
            f"hard.rule = {config.rule!r} needs hard.limit, the number of images to take, or hard.threshold"
        )
    rows = _candidates(config, table)
    rows = rows if bound is None else rows[values[rows] < bound]
    lowest = rows[np.argsort(values[rows], kind="stable")]
    return np.sort(lowest[: config.limit] if config.limit else lowest)


def _numbers(config, table: DataTable, name: str) -> np.ndarray:
    if getattr(config, "run", ""):
        from discl.hard_scores import scores

        return scores(config.run, table)[name]
    column, values = _column(table, name), np.full(len(table), np.nan)
    for row in table.rows("train").tolist():
        values[row] = _number(table, name, row, column[row])
    return values


def _number(table: DataTable, name: str, row: int, given) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = np.nan
    if np.isnan(value):
        place = table.places[row] if table.places else table.ids[row]
        raise DataError(f"{place}: {name} = {str(given)[:40]!r} is no number; every training image needs one")
    return value


def _column(table: DataTable, name: str) -> list:
    if name not in table.columns:
        raise ConfigError(
            f"hard.rule needs a column {name!r} in the data table; write one, set hard.run to a finished training "
            "whose classifier tells, or use rule = 'few'"
        )
    return table.columns[name]


def _advice(config, table: DataTable) -> str:
    if not len(table.rows("train")):
        return "the data has none: give rows of the split train"
    if not len(_candidates(config, table)):
        return "every class is among hard.exclude; leave some out of it"
    if config.rule == "few":
        return f"the smallest class has {table.train_counts.min()}, so raise hard.few_below = {config.few_below}"
    return "check the data"


RULES = {"few": _few, "all": _all, "list": _listed, "confidence": _least_confident, "loss": _largest_loss}
