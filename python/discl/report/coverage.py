"""Facts and the config come in; holes of the spectrum, how they were filled, and how scores lie by level go out."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from discl.report.acceptance import accepted_counts
from discl.report.facts import Facts
from discl.report.html import Markup, headings, scroller, section, tag

ROWS = 40  # of a table
QUANTILES = (5, 25, 50, 75, 95)


def coverage_section(facts: Facts, config: dict[str, Any]) -> Markup:
    """The holes of sources and what filled them, classes by levels, and quantiles of text score and margin by level."""
    names, source = np.unique(facts.source, return_inverse=True)
    seeds = (config.get("spectrum") or {}).get("seeds") or facts.seed.tolist()
    made = _counts(facts, source, len(names), np.ones(len(facts), bool))
    kept = _counts(facts, source, len(names), facts.kept)
    filled = (kept > 0) & (_counts(facts, source, len(names), facts.kept & np.isin(facts.seed, seeds)) == 0)
    covered = int((kept > 0).sum())
    found = f" {filled.sum():,} of the covered are so by further seeds alone ([spectrum] fill)." if filled.any() else ""
    lead = (
        f"A hole is a source and level without an accepted image. Of {kept.size:,} pairs {covered:,} are covered and "
        f"{kept.size - covered:,} are holes ({(made == 0).sum():,} of them were never made).{found}"
    )
    return section(
        "coverage",
        "Coverage and scores by level",
        tag("p", lead, class_="lead"),
        _holes(facts, names.tolist(), kept, made, filled),
        _classes(facts),
        _quantiles(facts, "Text scores of finished images", facts.score),
        _quantiles(facts, "Margins over the best other class, of finished images", facts.margin),
    )


def _counts(facts: Facts, source: np.ndarray, sources: int, mask: np.ndarray) -> np.ndarray:
    """int64 [sources, levels]: rows of the mask."""
    levels = facts.levels
    place = source[mask] * len(levels) + np.searchsorted(levels, facts.level[mask])
    return np.bincount(place, minlength=sources * len(levels)).reshape(sources, -1)


def _holes(facts: Facts, names: list[str], kept: np.ndarray, made: np.ndarray, filled: np.ndarray) -> Markup | None:
    """Sources with holes or with levels that only further seeds covered, most holes first; None without any."""
    holes = (kept == 0).sum(1)
    told = np.flatnonzero((holes > 0) | filled.any(1))
    if not len(told):
        return None
    shown = told[np.argsort(-holes[told], kind="stable")][:ROWS]
    lines = [
        _row(names[one], [_source_cell(*pair) for pair in zip(kept[one], made[one], filled[one], strict=True)])
        for one in shown
    ]
    return _table("Sources with holes or filled ones: accepted / made", "source", _heads(facts), lines, len(told))


def _source_cell(kept: int, made: int, filled: bool) -> Markup:
    state, word = ("up", "filled ") if filled else (None, "") if kept else ("down", "hole ")
    return tag("td", f"{word}{kept:,} / {made:,}", class_=state)


def _classes(facts: Facts) -> Markup:
    """The classes with the least accepted images."""
    counts = accepted_counts(facts)
    names = list(facts.class_names.values())
    shown = sorted(np.argsort(counts[:, :, 0].sum(1), kind="stable")[:ROWS].tolist())
    lines = [_row(names[one], [tag("td", f"{kept:,} / {made:,}") for kept, made in counts[one]]) for one in shown]
    title = "Classes with the least: accepted / made" if len(names) > ROWS else "Classes: accepted / made"
    return _table(title, "class", _heads(facts), lines, len(names))


def _quantiles(facts: Facts, title: str, values: np.ndarray) -> Markup | None:
    lines = []
    for level in facts.levels:
        of = values[(facts.level == level) & (facts.status == "ok") & np.isfinite(values)]
        if len(of):
            lines.append(_row(f"level {level}", [tag("td", f"{cut:.3f}") for cut in np.percentile(of, QUANTILES)]))
    return _table(title, "quantile", [f"{quantile} %" for quantile in QUANTILES], lines, len(lines)) if lines else None


def _heads(facts: Facts) -> list[str]:
    return [f"level {level}" for level in facts.levels]


def _row(name: str, cells: Iterable[Markup]) -> Markup:
    return tag("tr", tag("th", name, scope="row"), *cells)


def _table(title: str, corner: str, heads: list[str], lines: list[Markup], of: int) -> Markup:
    """A heading and its table; `of` is how many rows there would be without a limit."""
    shown = f" ({len(lines)} of {of:,})" if len(lines) < of else ""
    table = tag("table", headings(corner, *heads), tag("tbody", *lines), class_="numbers")
    return tag("div", tag("h3", title, shown), scroller(title, table, class_="scroll tall"))
