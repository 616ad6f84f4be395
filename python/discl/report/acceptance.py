"""Facts come in; accepted shares by level and by class go out, as bars and a table."""

from dataclasses import fields

import numpy as np

from discl.filtering.rules import Rules
from discl.report.facts import Facts, one_threshold
from discl.report.html import Markup, headings, join, scroller, section, tag

# As they stand in a selection's rule: of `discl filter`, and of the run's own.
FURTHER = (*(each.name for each in fields(Rules) if "threshold" not in each.name), "best_of")
CLASSES = 200  # rows of the class table; the classes with the lowest share come first when there are more


def acceptance_section(facts: Facts) -> Markup:
    counts = accepted_counts(facts)
    lead = f"{facts.kept.sum():,} of {len(facts):,} generated images were accepted ({rule_in_words(facts)})."
    by_level = tag("div", tag("h3", "By level"), _level_bars(facts, counts))
    by_class = tag("div", tag("h3", "By class and level"), _class_table(facts, counts))
    return section(
        "acceptance",
        "What was accepted",
        tag("p", f"{lead} {_problems(facts)}", class_="lead"),
        tag("div", by_level, by_class, class_="pair"),
    )


def accepted_counts(facts: Facts) -> np.ndarray:
    """int64 [classes, levels, 2]: accepted and generated, classes in the order of `facts.class_names`."""
    classes, levels = list(facts.class_names), facts.levels
    rows = np.searchsorted(classes, facts.class_id)
    columns = np.searchsorted(levels, facts.level)
    cells, shape = rows * len(levels) + columns, (len(classes), len(levels))
    halves = [np.bincount(part, minlength=shape[0] * shape[1]) for part in (cells[facts.kept], cells)]
    return np.stack(halves, axis=-1).reshape(*shape, 2)


def rule_in_words(facts: Facts) -> str:
    """The selection's rule in words; of `discl filter`'s further rules the names as they were given."""
    rule = dict(facts.rule)
    threshold, others = rule.pop("threshold", None), [f"{name} {rule[name]}" for name in FURTHER if name in rule]
    if (one := one_threshold(facts.rule)) is not None:
        others.insert(0, f"text score of at least {one:g}")
    elif threshold is not None:
        others.insert(0, "text score at thresholds by class and level")
    words = ", ".join(others).replace("_", " ") or "every finished image"
    return f"{words}, by the scores of {rule['scorer'].get('clip', 'another scorer')}" if "scorer" in rule else words


def _problems(facts: Facts) -> str:
    statuses, numbers = np.unique(facts.status[facts.status != "ok"].astype(str), return_counts=True)
    if not len(statuses):
        return "No image failed."
    return "Not finished: " + ", ".join(f"{n:,} {s}" for s, n in zip(statuses, numbers, strict=True)) + "."


def _level_bars(facts: Facts, counts: np.ndarray) -> Markup:
    entries = []
    for level, pair in zip(facts.levels, counts.sum(axis=0), strict=True):
        bar = tag("div", tag("i", style=f"width:{_share(pair):.1%}"), class_="bar")
        numbers = tag("span", tag("b", f"{_share(pair):.0%}"), f" {pair[0]:,} of {pair[1]:,}")
        entries += [tag("dt", f"level {level}"), tag("dd", bar, numbers)]
    return tag("dl", *entries, class_="bars")


def _class_table(facts: Facts, counts: np.ndarray) -> Markup:
    names = list(facts.class_names.values())
    order = list(range(len(names)))
    note = None
    if len(names) > CLASSES:
        order = sorted(order, key=lambda row: _share(counts[row].sum(axis=0)))[:CLASSES]
        note = tag("p", f"The {CLASSES} classes with the lowest share of {len(names):,}.", class_="note")
    head = headings("class", *facts.levels, "all")
    body = [_class_row(names[row], counts[row]) for row in order]
    foot = tag("tfoot", _class_row("all classes", counts.sum(axis=0)))
    table = tag("table", head, tag("tbody", *body), foot, class_="heat")
    return join([note, scroller("Acceptance by class and level", table, class_="scroll tall")])


def _class_row(name: str, pairs: np.ndarray) -> Markup:
    cells = [_heat(pair) for pair in [*pairs, pairs.sum(axis=0)]]
    return tag("tr", tag("th", name, scope="row"), *cells)


def _heat(pair: np.ndarray) -> Markup:
    if pair[1] == 0:
        return tag("td", "–", title="none generated")
    share, counts = _share(pair), f"{pair[0]:,} of {pair[1]:,} accepted"
    return tag("td", f"{share:.0%}", style=f"--share:{share:.2f}", title=counts)


def _share(pair: np.ndarray) -> float:
    return float(pair[0] / pair[1]) if pair[1] else 0.0
