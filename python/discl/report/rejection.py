"""Rates of early rejection come in; what it gave up, saved and cost goes out, a row a level."""

from collections.abc import Sequence

from discl.rejection_rates import Rates
from discl.report.html import Markup, headings, scroller, section, tag


def rejection_section(rates: Sequence[Rates]) -> list[Markup]:
    """One section; none where nothing could be rejected early."""
    if not rates:
        return []
    judged, rejected = sum(each.judged for each in rates), sum(each.rejected for each in rates)
    lead = (
        f"{rejected:,} of {judged:,} images were given up part-way, since CLIP would have rejected them. "
        f"Control images are made to their end whatever is predicted; the false-reject rate is the share of the "
        f"accepted ones among them that would have been given up, with its exact 95 percent interval. "
        "The limit is that of all levels together; a level may have up to twice as much."
    )
    head = headings("level", "given up", "steps saved", "controls accepted", "false-reject rate", "interval", "limit")
    table = tag("table", head, tag("tbody", *map(_row, rates)))
    return [
        section(
            "rejection", "What was rejected early", tag("p", lead, class_="lead"), scroller("Early rejection", table)
        )
    ]


def _row(rates: Rates) -> Markup:
    low, high = rates.interval
    cells = [
        f"{_percent(rates.share)} ({rates.rejected:,} of {rates.judged:,})",
        _percent(rates.saved),
        f"{rates.accepted:,} of {rates.control:,}",
        f"{_percent(rates.false_reject_rate)} ({rates.false:,} of {rates.accepted:,})",
        f"{low:.1%} to {high:.1%}",
        f"{rates.limit:.1%}",
    ]
    if rates.problem:
        cells[0] = f"not rejected early: {rates.problem}"
    return tag("tr", tag("th", rates.level, scope="row"), *(tag("td", cell) for cell in cells))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
