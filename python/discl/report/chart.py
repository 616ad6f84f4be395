"""Means and deviations of methods come in; one panel with dots and error bars goes out."""

from typing import Any

from discl.report.html import Markup, tag


def chart(methods: dict[str, Any], group: str, baseline: str) -> Markup:
    """A row per method: a dot at the mean, a bar one standard deviation to each side, a line at the baseline.

    methods: name -> group -> {"mean", "std" or None}, as fractions. Marks are placed in percent of the
    panel's width, so the same panel serves a desk and a phone.
    """
    values = {name: method[group] for name, method in methods.items() if group in method}
    spans = {name: (v["mean"] - (v.get("std") or 0), v["mean"] + (v.get("std") or 0)) for name, v in values.items()}
    axis = _axis(spans)
    base = f"left:{_place(values[baseline]['mean'], axis):.2f}%" if baseline in values else None
    rows = [_row(name, values[name]["mean"], spans[name], base, axis) for name in values]
    spoken = ", ".join(f"{name} {100 * value['mean']:.1f}" for name, value in values.items())
    body = tag("div", *rows, _scale(axis), role="img", aria_label=f"{group} accuracy in percent: {spoken}")
    return tag("figure", tag("figcaption", group), body, class_="chart")


def _row(name: str, mean: float, span: tuple[float, float], base: str | None, axis: tuple[int, int]) -> Markup:
    left, right = _place(span[0], axis), _place(span[1], axis)
    marks = [
        tag("i", class_="base", style=base) if base else None,
        tag("i", class_="error", style=f"left:{left:.2f}%;width:{right - left:.2f}%"),
        tag("i", class_="dot", style=f"left:{_place(mean, axis):.2f}%"),
    ]
    return tag("div", tag("span", name, class_="name"), tag("div", *marks, class_="plot"), class_="row")


def _axis(spans: dict[str, tuple[float, float]]) -> tuple[int, int]:
    """Ends in percent: they cover all means with their deviations, in steps of 5, within 0..100."""
    low = min(span[0] for span in spans.values())
    high = max(span[1] for span in spans.values())
    first = min(max(int(20 * low), 0), 19)
    return 5 * first, 5 * max(first + 1, min(20, int(20 * high) + 1))


def _place(fraction: float, axis: tuple[int, int]) -> float:
    low, high = axis
    return 100 * (min(max(100 * fraction, low), high) - low) / (high - low)


def _scale(axis: tuple[int, int]) -> Markup:
    low, high = axis
    step = next(step for step in (5, 10, 20, 25) if (high - low) / step <= 5)
    ticks = [tag("span", value, style=f"left:{_place(value / 100, axis):.1f}%") for value in range(low, high + 1, step)]
    return tag("div", tag("span", "", class_="name"), tag("div", *ticks, class_="ticks"), class_="row")
