"""Facts and the config come in; holes of the spectrum, how they were filled, and how scores lie by level go out."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from discl.report.facts import Facts
from discl.report.html import Markup, headings, join, scroller, section, tag

CLASSES = 40
QUANTILES = (5, 25, 50, 75, 95)


def coverage_section(facts: Facts, config: dict[str, Any]) -> Markup:
    """Classes by levels, the holes of sources, and quantiles of text score and margin by level."""
    made, kept = (pairs(facts, mask) for mask in (np.ones(len(facts), bool), facts.kept))
    seeds = (config.get("spectrum") or {}).get("seeds") or facts.seed.tolist()
    planned = pairs(facts, facts.kept & np.isin(facts.seed, seeds))
    sources = len(set(facts.source.tolist()))
    wanted, filled = sources * len(facts.levels), len(kept) - len(planned)
    found = f" {filled:,} of these are covered by further seeds alone ([spectrum] fill)." if filled else ""
    lead = (
        f"A hole is a source and level without an accepted image. Of {wanted:,} pairs {len(kept):,} are covered and "
        f"{wanted - len(kept):,} are holes ({wanted - len(made):,} of them were never made).{found}"
    )
    return section(
        "coverage",
        "Coverage and scores by level",
        tag("p", lead, class_="lead"),
        scroller("Accepted images by class and level", _classes(facts)),
        scroller("Scores by level", _quantiles(facts)),
    )


def pairs(facts: Facts, mask: np.ndarray) -> set[tuple[str, int]]:
    """(source, level) of the rows in the mask."""
    return set(zip(facts.source[mask].tolist(), facts.level[mask].tolist(), strict=True))


def _classes(facts: Facts) -> Markup:
    """The classes with the least accepted images, "accepted / made" by level."""
    order = sorted(facts.class_names, key=lambda number: (int(facts.kept[facts.class_id == number].sum()), number))
    lines = []
    for number in sorted(order[:CLASSES]):
        of = facts.class_id == number
        cells = [(int(facts.kept[of & (facts.level == level)].sum()), int((of & (facts.level == level)).sum()))
                 for level in facts.levels]  # fmt: skip
        lines.append(_row(facts.class_names[number], (f"{kept:,} / {made:,}" for kept, made in cells)))
    of_all = f"; the {CLASSES} classes with the least, of {len(order):,}" if len(order) > CLASSES else ""
    caption = f"Accepted / made{of_all}"
    head = headings("class", *(f"level {level}" for level in facts.levels))
    return tag("table", tag("caption", caption), head, tag("tbody", *lines))


def _quantiles(facts: Facts) -> Markup:
    lines = []
    for name, values in (("text score", facts.score), ("margin over the best other class", facts.margin)):
        for level in facts.levels:
            of = values[(facts.level == level) & (facts.status == "ok") & np.isfinite(values)]
            if len(of):
                cells = (f"{value:.3f}" for value in np.percentile(of, QUANTILES))
                lines.append(_row(f"{name}, level {level}", cells))
    head = headings("of finished images", *(f"{quantile} %" for quantile in QUANTILES))
    return tag("table", tag("caption", "Quantiles"), head, tag("tbody", *lines))


def _row(name: str, cells: Iterable[str]) -> Markup:
    return tag("tr", tag("th", name, scope="row"), join(tag("td", cell) for cell in cells))
