"""Facts and source images come in; the grid source | levels | seeds goes out."""

from collections.abc import Callable

import numpy as np

from discl.report.facts import Facts
from discl.report.html import Markup, headings, join, scroller, section, tag
from discl.report.thumbnails import data_uri

SOURCES, SEEDS = 12, 4  # what one page shows of a large store
PROBLEMS = {"rejected-early": "early", "nan": "NaN", "error": "error"}

Sources = Callable[[str], bytes | None]


def spectrum_section(facts: Facts, sources: Sources) -> Markup:
    """One table per source: a row per seed, a column per level."""
    chosen = choose_sources(facts, SOURCES)
    seeds = [int(seed) for seed in np.unique(facts.seed)]
    grids = [_source_grid(facts, source, seeds[:SEEDS], sources) for source in chosen]
    lead = (
        "Left the hard image, then what the generator made of it. Low levels are free and diverse, high "
        f"levels stay close to the source (100 is the source itself). {_sampled(facts, chosen, seeds)}"
    )
    return section(
        "spectrum",
        "The spectrum",
        tag("p", lead, class_="lead"),
        _legend(),
        tag("div", *grids, class_="grids", style=f"--columns:{len(facts.levels) + 1}"),
    )


def choose_sources(facts: Facts, limit: int) -> list[str]:
    """At most `limit` sources, by turns from every class, in class order: the same on every call."""
    queues: dict[int, list[str]] = {}
    for class_id, source in sorted(set(zip(facts.class_id.tolist(), facts.source.tolist(), strict=True))):
        queues.setdefault(class_id, []).append(source)
    turns = sorted((turn, class_id, source) for class_id, queue in queues.items() for turn, source in enumerate(queue))
    return [source for _, _, source in sorted(turns[:limit], key=lambda item: (item[1], item[0]))]


def _legend() -> Markup:
    every = tag("label", tag("input", type="checkbox", id="all-scores"), " show every score")
    kept, dropped = (
        tag("span", "accepted", class_="chip keep"),
        tag("span", "✕ score: rejected", class_="chip drop"),
    )
    return tag("p", kept, dropped, every, class_="legend")


def _sampled(facts: Facts, chosen: list[str], seeds: list[int]) -> str:
    total = len(set(facts.source.tolist()))
    if len(chosen) == total and len(seeds) <= SEEDS:
        return "All sources are shown."
    return (
        f"Shown: {len(chosen)} of {total:,} sources, taken from the classes by turns, "
        f"and the first {min(SEEDS, len(seeds))} of {len(seeds)} seeds."
    )


def _source_grid(facts: Facts, source: str, seeds: list[int], sources: Sources) -> Markup:
    rows = np.flatnonzero(facts.source == source)
    cells = cells_of(facts, rows)
    label = facts.class_names[int(facts.class_id[rows[0]])]
    shown = [seed for seed in seeds if any((level, seed) in cells for level in facts.levels)]
    lines = []
    for number, seed in enumerate(shown):
        first = _source_cell(source, label, len(shown), sources) if number == 0 else None
        made = [_cell(facts, cells.get((level, seed)), label) for level in facts.levels]
        lines.append(tag("tr", first, *made))
    head = headings("source", *(join([tag("span", "level "), level]) for level in facts.levels))
    table = tag("table", tag("caption", f"Source {source}"), head, tag("tbody", *lines), class_="spectrum")
    return scroller(f"Spectrum of {source}", table)


def cells_of(facts: Facts, rows: np.ndarray) -> dict[tuple[int, int], int]:
    """(level, seed) -> row; of several retries the accepted one, else the last."""
    order = sorted(rows.tolist(), key=lambda row: (bool(facts.kept[row]), int(facts.retry[row])))
    return {(int(facts.level[row]), int(facts.seed[row])): row for row in order}


def _source_cell(source: str, label: str, rows: int, sources: Sources) -> Markup:
    encoded = sources(source)
    picture = (
        tag("img", src=data_uri(encoded), alt=f"hard image {source}, class {label}")
        if encoded is not None
        else tag("span", "not found", class_="hole")
    )
    return tag("th", tag("figure", picture, tag("figcaption", label, title=label)), scope="rowgroup", rowspan=rows)


def _cell(facts: Facts, row: int | None, label: str) -> Markup:
    if row is None:
        return tag("td", tag("span", "none", class_="hole"))
    state = "accepted" if facts.kept[row] else "rejected"
    score = "" if np.isnan(facts.score[row]) else f"{facts.score[row]:.2f}"
    about = f"level {facts.level[row]}, seed {facts.seed[row]}, {state}, text score {score or 'none'}"
    if facts.stored[row]:
        picture = tag("img", src=data_uri(facts.image(row)), alt=f"{label}, {about}", title=about)
    else:
        word = PROBLEMS.get(facts.status[row], "no image")
        picture = tag("span", word, class_="hole", title=about)
    badge = tag("span", score if facts.kept[row] else f"✕ {score}", class_="score", aria_hidden="true")
    return tag("td", picture, badge, class_="keep" if facts.kept[row] else "drop")
