"""Rates of early rejection come in; what it gave up, saved and cost goes out, a row a level and one for all."""

from collections.abc import Sequence

from discl.engine.rejection.bound import level_limit
from discl.rejection_rates import Rates, pooled
from discl.report.html import Markup, headings, scroller, section, tag


def rejection_section(rates: Sequence[Rates]) -> list[Markup]:
    """One section; none where nothing could be rejected early."""
    if not rates:
        return []
    whole = pooled(rates)
    lead = (
        f"{whole.rejected:,} of {whole.judged:,} images were given up part-way, since CLIP would have rejected them. "
        f"Control images are made to their end whatever is predicted; the false-reject rate is the share of the "
        f"accepted ones among them that would have been given up, with its exact 95 percent interval. "
        "The limit that was asked for is that of all levels together; a level may have up to twice as much."
    )
    head = headings("level", "given up", "steps saved", "controls accepted", "false-reject rate", "interval", "limit")
    rows = (_row(each, level_limit(each.limit)) for each in rates)
    table = tag("table", head, tag("tbody", *rows), tag("tfoot", _row(whole, whole.limit)))
    return [
        section(
            "rejection", "What was rejected early", tag("p", lead, class_="lead"), scroller("Early rejection", table)
        )
    ]


def _row(rates: Rates, limit: float) -> Markup:
    low, high = rates.interval
    cells = [
        f"{_percent(rates.share)} ({rates.rejected:,} of {rates.judged:,})",
        _percent(rates.saved),
        f"{rates.accepted:,} of {rates.control:,}",
        f"{_percent(rates.false_reject_rate)} ({rates.false:,} of {rates.accepted:,})",
        f"{low:.1%} to {high:.1%}",
        f"{limit:.1%}",
    ]
    if rates.problem:
        cells[0] = f"not rejected early: {rates.problem}"
    return tag(
        "tr",
        tag("th", "all" if rates.level is None else rates.level, scope="row"),
        *(tag("td", cell) for cell in cells),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
