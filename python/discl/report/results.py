"""Metrics of methods come in; the result table and charts with error bars go out."""

from statistics import fmean, stdev
from typing import Any

from discl.report.chart import chart
from discl.report.html import Markup, headings, scroller, section, tag

GROUPS = ("overall", "many", "medium", "few")
BASELINE = "ce"
LEAD = (
    "Top-1 accuracy on the test split, in percent. Many, medium and few are groups of classes by their count "
    "of real training images. "
)
LOW_QUALITY = (("all spoilt (OOD)", "test"), ("as trained (ID)", "id_test"))
LOW_QUALITY_LEAD = (
    "300 digits, 120 of them blurred, noisy or of low contrast; hard are those that a plain training is least sure of. "
    "In percent. "
)


def results_section(metrics: dict[str, Any]) -> Markup | None:
    """Table and charts of `metrics["methods"]`: name -> group -> {"mean", "std"}, as fractions."""
    methods = metrics.get("methods") or {}
    groups = [group for group in GROUPS if any(group in method for method in methods.values())]
    if not groups:
        return None
    return section(
        "results",
        "Results",
        tag("p", LEAD, _conditions(metrics), class_="lead"),
        scroller("Result table", _table(methods, groups)),
        tag("div", *(chart(methods, group, BASELINE) for group in groups), class_="panels"),
        tag("p", _legend(methods), class_="note"),
    )


def low_quality_section(metrics: dict[str, Any]) -> Markup | None:
    """Of `metrics["low_quality"]["splits"]`: macro F1 and accuracy inside and outside the training's distribution."""
    found = metrics.get("low_quality")
    if not found:
        return None
    splits = found["splits"]
    columns = [(name, split, group) for group in ("macro_f1", "overall") for name, split in LOW_QUALITY]
    best = {at: max(row[at[2]]["mean"] for row in splits[at[1]].values()) for at in columns}
    body = [
        tag("tr", tag("th", name, scope="row"), *(_number(splits[at[1]][name][at[2]], best[at]) for at in columns))
        for name in found["methods"]
    ]
    words = {"macro_f1": "macro F1", "overall": "accuracy"}
    head = headings("method", *(f"{words[group]}, {name}" for name, _, group in columns))
    return section(
        "low-quality",
        "Images of low quality",
        tag("p", LOW_QUALITY_LEAD, _conditions(found), class_="lead"),
        scroller("Result table of low quality", tag("table", head, tag("tbody", *body), class_="numbers")),
        tag("p", _against_plain(found["trainings"]), class_="note"),
    )


def _against_plain(trainings: list[dict[str, Any]]) -> str:
    """Which methods differ from plain training by more than the spread of the differences, seed by seed."""
    scores: dict[str, dict[int, float]] = {}
    for one in trainings:
        scores.setdefault(one["method"], {})[one["seed"]] = 100 * one["test"]["macro_f1"]
    plain = scores.pop(BASELINE)
    gains = {name: [value - plain[seed] for seed, value in of_seed.items()] for name, of_seed in scores.items()}
    told = ", ".join(f"{name} {fmean(gain):+.1f} ± {_deviation(gain):.1f}" for name, gain in gains.items())
    above = [name for name, gain in gains.items() if fmean(gain) > _deviation(gain)]
    below = [name for name, gain in gains.items() if fmean(gain) < -_deviation(gain)]
    return (
        f"Macro F1 on the spoilt digits less plain training's, seed by seed, in points: {told}. More than one standard "
        f"deviation above it: {', '.join(above) or 'none'}; below it: {', '.join(below) or 'none'}. The ± covers "
        "training seeds only."
    )


def _deviation(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _conditions(metrics: dict[str, Any]) -> str:
    seeds, steps = metrics.get("seeds"), metrics.get("steps")
    parts = []
    if seeds:
        parts.append(f"mean ± standard deviation over {len(seeds)} training seeds")
    if steps:
        parts.append(f"every method takes {steps:,} optimizer steps")
    line = "; ".join(parts)
    return f"{line[0].upper()}{line[1:]}." if line else ""


def _legend(methods: dict[str, Any]) -> str:
    line = "Dots are means, bars reach one standard deviation to each side."
    return f"{line} The dashed line is {BASELINE}." if BASELINE in methods else line


def _table(methods: dict[str, Any], groups: list[str]) -> Markup:
    best = {group: max(m[group]["mean"] for m in methods.values() if group in m) for group in groups}
    gain = BASELINE in methods and "few" in groups and len(methods) > 1
    columns = ["method", *groups, *([f"few vs {BASELINE}"] if gain else [])]
    body = []
    for name, method in methods.items():
        cells = [_number(method.get(group), best[group]) for group in groups]
        if gain:
            cells.append(tag("td", "–") if name == BASELINE else _gain(method, methods[BASELINE]))
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    return tag("table", headings(*columns), tag("tbody", *body), class_="numbers")


def _number(value: dict[str, float] | None, best: float) -> Markup:
    if value is None:
        return tag("td", "–")
    mean = f"{100 * value['mean']:.1f}"
    shown = tag("strong", mean, title="best of this column") if value["mean"] == best else mean
    spread = tag("small", f" ± {100 * value['std']:.1f}") if value.get("std") is not None else None
    return tag("td", shown, spread)


def _gain(method: dict[str, Any], baseline: dict[str, Any]) -> Markup:
    points = 100 * (method["few"]["mean"] - baseline["few"]["mean"])
    return tag("td", f"{points:+.1f}".replace("-", "−"), class_="up" if points > 0 else "down")
