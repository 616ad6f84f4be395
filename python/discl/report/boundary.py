"""Facts and source images come in; the pairs nearest to the threshold, on both sides of it, go out."""

import numpy as np

from discl.report.facts import Facts
from discl.report.html import Markup, section, tag
from discl.report.spectrum import Sources
from discl.report.thumbnails import data_uri

PAIRS = 8  # on each side


def boundary_section(facts: Facts, sources: Sources) -> Markup | None:
    """Source and result side by side; None without images that are scored and stored."""
    rows = np.flatnonzero(facts.scored & facts.stored)
    if not len(rows):
        return None
    kept, left = rows[facts.kept[rows]], rows[~facts.kept[rows]]
    lead_of = facts.lead
    kept = kept[np.argsort(lead_of[kept], kind="stable")][:PAIRS]
    left = left[np.argsort(-lead_of[left], kind="stable")][:PAIRS]
    several = "threshold" in facts.rule and facts.threshold is None and facts.judged
    over = ", over the thresholds of their classes and levels" if several else ""
    lead = (
        f"The accepted images with the lowest text scores and the others with the highest{over}, each beside its "
        "source: look here to judge whether the threshold keeps what shows its class."
    )
    panes = (_pane("Just accepted", kept, facts, sources), _pane("Just left out", left, facts, sources))
    return section(
        "boundary", "Nearest to the threshold", tag("p", lead, class_="lead"), tag("div", *panes, class_="pair")
    )


def _pane(title: str, rows: np.ndarray, facts: Facts, sources: Sources) -> Markup:
    pictures = [_pair(int(row), facts, sources) for row in rows]
    return tag("div", tag("h3", title), tag("div", *(pictures or [tag("p", "None.")]), class_="thumbs"))


def _pair(row: int, facts: Facts, sources: Sources) -> Markup:
    label, source = facts.class_names[int(facts.class_id[row])], facts.source[row]
    encoded = sources(source)
    about = f"{label}, level {facts.level[row]}, text score {facts.score[row]:.3f}"
    left = (
        tag("img", src=data_uri(encoded), alt=f"source {source}", title=f"source {source}")
        if encoded is not None
        else tag("span", "no source", class_="hole")
    )
    result = tag("img", src=data_uri(facts.image(row)), alt=about, title=about)
    return tag("figure", left, result, tag("figcaption", f"{facts.score[row]:.3f}, level {facts.level[row]}"))
