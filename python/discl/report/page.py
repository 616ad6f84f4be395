"""What a run left behind comes in; one self-contained HTML file goes out.

The file needs no network: styles, script, pictures and data are inside, and a content security policy forbids
the rest. Parts: facts (store -> columns), one module per section, template.html, style.css, page.js.
"""

import os
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from discl.atomic import write_atomic
from discl.rejection_rates import rejection_rates
from discl.report.acceptance import acceptance_section
from discl.report.boundary import boundary_section
from discl.report.comparison import comparison_section
from discl.report.coverage import coverage_section
from discl.report.facts import Facts, store_facts
from discl.report.html import Markup, join, tag, text
from discl.report.provenance import cost_section, provenance_section
from discl.report.rejection import rejection_section
from discl.report.results import BASELINE, low_quality_section, results_section
from discl.report.spectrum import Sources, spectrum_section
from discl.report.threshold import threshold_section

NAMES = {
    "spectrum": "Spectrum",
    "acceptance": "Accepted",
    "coverage": "Coverage",
    "rejection": "Rejected early",
    "threshold": "Threshold",
    "boundary": "Nearest",
    "comparison": "Comparison",
    "results": "Results",
    "low-quality": "Low quality",
    "cost": "Time",
    "provenance": "Config",
}


def write_report(
    out_html: str | os.PathLike,
    *,
    title: str,
    store: Any = None,
    selection: str = "default",
    sources: Sources = lambda source_id: None,
    metrics: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    stages: list[dict[str, Any]] | None = None,
    versions: dict[str, str] | None = None,
    compared: Any = None,
) -> Path:
    """Write the page and return its path.

    store       a `discl.Store`, or None: then the sections on the spectrum are left out
    sources     source id -> encoded image, or None where the image is gone
    metrics     {"methods": {name: {"overall"|"many"|"medium"|"few": {"mean", "std"}}}, "seeds", "steps"}
    config      the resolved config, table by table;  versions  name -> version
    compared    of several trainings, see `discl.report.compare`
    stages      [{"stage", "seconds", "unet_evaluations", "note"}] in the order in which they ran
    """
    facts = store_facts(store, selection) if store is not None else None
    metrics, stages = metrics or {}, stages or []
    sections = [
        *(_store_sections(store, facts, sources, config or {}) if facts is not None and len(facts) else []),
        comparison_section(compared),
        results_section(metrics),
        low_quality_section(metrics),
        cost_section(stages),
        provenance_section(config or {}, versions or {}),
    ]
    shown = [section for section in sections if section is not None]
    page = _template("template.html").substitute(
        title=text(title),
        style=_asset("style.css"),
        script=_asset("page.js"),
        links=join(tag("a", name, href=f"#{key}") for key, name in NAMES.items() if _has(shown, key)),
        tiles=_tiles(facts, metrics, stages),
        sections=join(shown),
    )
    write_atomic(out_html, page.encode())
    return Path(out_html)


def _store_sections(store: Any, facts: Facts, sources: Sources, config: dict[str, Any]) -> list[Markup]:
    rejected = rejection_section(rejection_rates(store, facts.rule["recipe"]) if "recipe" in facts.rule else [])
    return [
        spectrum_section(facts, sources),
        acceptance_section(facts),
        coverage_section(facts, config),
        *rejected,
        threshold_section(facts),
        *filter(None, [boundary_section(facts, sources)]),
    ]


def _has(sections: list[Markup], key: str) -> bool:
    return any(f'id="{key}"' in section[:200] for section in sections)


def _asset(name: str) -> str:
    return (files("discl.report") / name).read_text("utf-8")


def _template(name: str) -> Template:
    return Template(_asset(name))


def _tiles(facts: Facts | None, metrics: dict[str, Any], stages: list[dict[str, Any]]) -> Markup:
    """The figures that matter, at the head of the page."""
    tiles = []
    if facts is not None and len(facts):
        sources = len(set(facts.source.tolist()))
        tiles += [("hard images", f"{sources:,}"), ("images made", f"{len(facts):,}"),
                  ("accepted", f"{facts.kept.mean():.0%}")]  # fmt: skip
    gain = _gain(metrics.get("methods") or {})
    if gain is not None:
        tiles.append(("few-class gain of diverse-to-specific over ce", f"{gain:+.1f} points"))
    if stages:
        tiles.append(("time, all stages", f"{sum(stage['seconds'] for stage in stages) / 60:.1f} min"))
    return join(tag("div", tag("dt", name), tag("dd", value), class_="tile") for name, value in tiles)


def _gain(methods: dict[str, Any]) -> float | None:
    pair = [methods.get(name, {}).get("few") for name in ("diverse-to-specific", BASELINE)]
    return None if None in pair else 100 * (pair[0]["mean"] - pair[1]["mean"])
