"""Stages, config and versions of a run come in; the sections on cost and provenance go out."""

from typing import Any

from discl.report.html import Markup, headings, join, scroller, section, tag


def cost_section(stages: list[dict[str, Any]]) -> Markup | None:
    """One row per stage: {"stage", "seconds", "unet_evaluations" or None, "note" or ""}."""
    if not stages:
        return None
    total = sum(stage["seconds"] for stage in stages)
    evaluations = sum(stage.get("unet_evaluations") or 0 for stage in stages)
    head = headings("stage", "seconds", "share", "UNet evaluations", "")
    body = tag("tbody", *(_stage_row(stage, total) for stage in stages))
    numbers = [tag("td", cell) for cell in (_seconds(total), "", f"{evaluations:,}", "")]
    foot = tag("tfoot", tag("tr", tag("th", "all", scope="row"), *numbers))
    return section("cost", "Time", scroller("Time by stage", tag("table", head, body, foot, class_="cost")))


def _stage_row(stage: dict[str, Any], total: float) -> Markup:
    share = stage["seconds"] / total if total else 0.0
    evaluations = stage.get("unet_evaluations")
    return tag(
        "tr",
        tag("th", stage["stage"], scope="row"),
        tag("td", _seconds(stage["seconds"])),
        tag("td", tag("div", tag("i", style=f"width:{share:.1%}"), class_="bar"), class_="wide"),
        tag("td", "–" if evaluations is None else f"{evaluations:,}"),
        tag("td", stage.get("note", ""), class_="words"),
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f}"


def provenance_section(config: dict[str, Any], versions: dict[str, str]) -> Markup:
    """The resolved config as TOML tables, and name -> version."""
    tables = [_config_table(name, value) for name, value in config.items() if isinstance(value, dict)]
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in versions.items()]
    return section(
        "provenance",
        "How it was made",
        tag("h3", "Resolved config"),
        tag("div", *tables, class_="config"),
        tag("h3", "Versions"),
        scroller("Versions", tag("table", tag("tbody", *rows), class_="versions")),
    )


def _config_table(name: str, values: dict[str, Any]) -> Markup:
    stated = {key: toml_value(value) for key, value in values.items() if value is not None}
    lines = join((join([tag("b", key), " = ", value]) for key, value in stated.items()), between="\n")
    return tag("div", tag("h4", f"[{name}]"), tag("pre", lines))


def toml_value(value: Any) -> str:
    """One value as TOML writes it (inline tables for nested ones)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + " }"
    quoted = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'
