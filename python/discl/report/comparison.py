"""What `discl.report.compare` found comes in; the section that puts runs beside the paper's rows goes out."""

from discl.report.compare import GATED, Compared, table
from discl.report.html import Markup, headings, scroller, section, tag

LEAD = (
    "Top-1 accuracy, or macro F1 outside (ood) and inside (id) the training's distribution, in percent. Differences "
    "come with 95 % intervals of the paired bootstrap over test images; training seeds are not in them. The paper's "
    "rows are its published ones. Device-hours are of the training; spectrum hours of making the images, once for all."
)


def comparison_section(compared: list[Compared] | None) -> Markup | None:
    if not compared:
        return None
    head, *rows = table(compared)
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    return section(
        "comparison",
        "Runs beside the paper",
        tag("p", LEAD, class_="lead"),
        scroller("Comparison", tag("table", headings(*head), tag("tbody", *body), class_="numbers")),
        tag("h3", "Differences"),
        scroller("Differences", _differences(compared)),
    )


def _differences(compared: list[Compared]) -> Markup:
    """Every run against the control and against the first of its kind; what fell for certain is marked."""
    rows = [
        tag("tr", tag("th", f"{one.name} vs {other}", scope="row"), tag("td", column), *_interval(column, *values))
        for one in compared
        for other, columns in one.against.items()
        for column, values in columns.items()
    ]
    return tag("table", headings("runs", "of", "points", "95 % interval"), tag("tbody", *rows), class_="numbers")


def _interval(column: str, delta: float, low: float, high: float) -> list[Markup]:
    fell = "down" if column in GATED and high < 0 else "up" if low > 0 else None
    return [tag("td", f"{100 * delta:+.1f}", class_=fell), tag("td", f"{100 * low:+.1f} to {100 * high:+.1f}")]
