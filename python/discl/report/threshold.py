"""Facts come in; the score histogram with its slider, and the data that page.js computes on, go out."""

from typing import Any

import numpy as np

from discl.report.acceptance import rule_in_words
from discl.report.facts import Facts
from discl.report.html import Markup, embedded_json, join, section, tag
from discl.report.thumbnails import data_uri

SCORES = 40_000  # samples whose scores the page carries
THUMBNAILS = 1_000  # of these, how many with a picture
BYTES = 2_500_000  # of pictures
BINS = 100
LEAD = (
    "Text score of every finished image, by level. Drag the slider, or use the arrow keys, to see what "
    "another threshold would take in and leave out. Heights are square roots of counts, so that rare scores show. "
)
NICE = (0.0005, 0.001, 0.002, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.2, 0.25, 0.5)


def threshold_section(facts: Facts) -> Markup:
    """Histograms by level over one axis, the slider below them, and what it moves in and out."""
    rows = spread(np.flatnonzero(facts.scored), facts.score, SCORES)
    if not len(rows):
        return section("threshold", "Threshold", tag("p", "No image of this store has a text score."))
    axis = score_axis(np.append(facts.score[rows], _reached(facts)))
    start = start_threshold(facts, axis)
    lanes, where = [_histograms(facts, rows, axis), _slider(axis, start)], f"--t:{_place(start, axis):.3f}%"
    return section(
        "threshold",
        "Move the threshold",
        tag("p", LEAD, _sampled(facts, rows), _others(facts, rows, start), class_="lead"),
        tag("div", *lanes, class_="explorer", id="explorer", style=where),
        _outcome(),
        embedded_json("explorer-data", explorer_data(facts, rows, axis, start)),
    )


def spread(rows: np.ndarray, score: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows, evenly over their order by score: deterministic, no region is missed."""
    if len(rows) <= limit:
        return rows
    ordered = rows[np.argsort(score[rows], kind="stable")]
    return np.sort(ordered[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)])


def score_axis(score: np.ndarray) -> dict[str, float]:
    """{"low", "high", "width"} in score units: at most BINS bins of a round width that cover all scores."""
    low, high = float(score.min()), float(score.max())
    width = next((w for w in NICE if np.floor(high / w) - np.floor(low / w) < BINS), NICE[-1])
    first, last = np.floor(low / width), np.floor(high / width) + 1
    return {"low": round(float(first) * width, 6), "high": round(float(last) * width, 6), "width": width}


def _reached(facts: Facts) -> list[float]:
    """The run's threshold, which the axis is to have also beyond all scores; -1 is none."""
    return [] if facts.threshold is None or facts.threshold <= -1 else [facts.threshold]


def start_threshold(facts: Facts, axis: dict[str, float]) -> float:
    """The run's threshold, in float32 as scores are; where it has not one of these scores, the lowest it kept."""
    threshold = facts.threshold
    if threshold is None:
        kept = facts.score[facts.kept & facts.scored]
        threshold = float(kept.min()) if len(kept) else axis["low"]
    return min(max(float(np.float32(threshold)), axis["low"]), axis["high"])


def explorer_data(facts: Facts, rows: np.ndarray, axis: dict[str, float], start: float) -> dict[str, Any]:
    """Columns for page.js: scores over the start in 1/10,000, so that rounding moves none at the start; level and class
    as positions, kept 0 or 1, pictures by row; of how many scored images these are."""
    levels, classes = facts.levels, list(facts.class_names)
    return {
        "levels": levels,
        "classes": list(facts.class_names.values()),
        "score": np.floor((facts.score[rows].astype(np.float64) - start) * 10_000).astype(int).tolist(),
        "level": np.searchsorted(levels, facts.level[rows]).tolist(),
        "class": np.searchsorted(classes, facts.class_id[rows]).tolist(),
        "kept": facts.kept[rows].astype(int).tolist(),
        "pictures": _pictures(facts, rows),
        "axis": axis,
        "of": int(facts.scored.sum()),
    }


def _pictures(facts: Facts, rows: np.ndarray) -> dict[str, str]:
    places = np.flatnonzero(facts.stored[rows])
    chosen = spread(places, facts.score[rows], THUMBNAILS)
    uris = {str(place): data_uri(facts.image(rows[place])) for place in chosen.tolist()}
    size = sum(map(len, uris.values()))
    if size <= BYTES:
        return uris
    fewer = spread(chosen, facts.score[rows], int(len(chosen) * BYTES / size))
    return {str(place): uris[str(place)] for place in fewer.tolist()}


def _others(facts: Facts, rows: np.ndarray, start: float) -> str:
    """What moves already at the start, and why; nothing does where the selection is the images over one threshold."""
    if np.array_equal(facts.score[rows].astype(np.float64) >= start, facts.kept[rows]):
        return ""
    where = "the lowest accepted score" if facts.threshold is None else "the selection's threshold"
    return (
        f"The selection's rule is {rule_in_words(facts)}. The slider starts at {where}; "
        "what moves in there is what the rest of the rule left out."
    )


def _sampled(facts: Facts, rows: np.ndarray) -> str:
    scored, unscored = int(facts.scored.sum()), int((~facts.scored).sum())
    shown = f"Shown and counted: {len(rows):,} of {scored:,}, evenly over the scores. " if len(rows) < scored else ""
    return shown + (f"{unscored:,} unfinished or unscored images are left out. " if unscored else "")


def _place(score: float, axis: dict[str, float]) -> float:
    return 100 * (score - axis["low"]) / (axis["high"] - axis["low"])


def _histograms(facts: Facts, rows: np.ndarray, axis: dict[str, float]) -> Markup:
    bins = round((axis["high"] - axis["low"]) / axis["width"])
    score = facts.score[rows].astype(np.float64)
    place = np.clip(np.floor((score - axis["low"]) / axis["width"] + 1e-6), 0, bins - 1).astype(int)
    counts = [np.bincount(place[facts.level[rows] == level], minlength=bins) for level in facts.levels]
    return join(
        tag("div", tag("span", f"level {level}", class_="name"), _bars(row), _share(level), class_="lane")
        for level, row in zip(facts.levels, counts, strict=True)
    )


def _share(level: int) -> Markup:
    return tag("output", "", id=f"share-{level}", aria_label=f"accepted at level {level}")


def _bars(counts: np.ndarray) -> Markup:
    """Bars drawn twice: muted below, in the accent colour above and clipped at the threshold by CSS."""
    top = max(int(counts.max()), 1)
    shapes = join(_bar(place, 38 * (count / top) ** 0.5) for place, count in enumerate(counts.tolist()) if count)
    box = {"viewBox": f"0 0 {len(counts)} 40", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return tag("div", *(tag("svg", shapes, class_=half, **box) for half in ("below", "above")), class_="plot")


def _bar(place: int, height: float) -> Markup:
    return tag("rect", x=f"{place + 0.06:.2f}", y=f"{40 - height:.1f}", width="0.88", height=f"{height:.1f}")


def _slider(axis: dict[str, float], start: float) -> Markup:
    step = next((step for step in NICE if (axis["high"] - axis["low"]) / step <= 6), NICE[-1])
    marks = np.arange(np.ceil(axis["low"] / step - 1e-6), np.floor(axis["high"] / step + 1e-6) + 1) * step
    ticks = [tag("span", f"{mark + 0.0:.4g}", style=f"left:{_place(mark, axis):.1f}%") for mark in marks]
    ends = {"min": axis["low"], "max": axis["high"], "step": "any"}
    values = {"value": repr(start), "data_start": repr(start)}
    return tag(
        "div",
        tag("label", "threshold", for_="slider", class_="name"),
        tag(
            "div",
            tag("input", type="range", id="slider", **ends, **values),
            tag("div", *ticks, class_="ticks", aria_hidden="true"),
            class_="track",
        ),
        tag("output", f"{start:.3f}", id="threshold-value", for_="slider"),
        class_="lane slider",
    )


def _outcome() -> Markup:
    """Empty places that page.js fills."""
    reset = tag("button", "Back to the start", type="button", id="reset")
    summary = tag("output", "", id="summary", aria_live="polite")
    plain = tag("p", "The slider needs JavaScript; everything else on this page works without it.")
    panes = [_pane("in", "Moves in"), _pane("out", "Moves out")]
    return join([tag("p", reset, summary, class_="outcome"), tag("div", *panes, class_="pair"),
                 tag("noscript", plain)])  # fmt: skip


def _pane(name: str, title: str) -> Markup:
    head = tag("h3", f"{title}: ", tag("output", "0", id=f"{name}-count"))
    return tag("div", head, tag("div", class_="thumbs", id=f"{name}-thumbs"))
