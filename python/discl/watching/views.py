"""`State` in, text for a terminal, a page that reloads itself, or Prometheus' text format out."""

import time
from collections.abc import Iterator
from importlib.resources import files

from discl.progress import dollars, duration
from discl.report.html import Markup, headings, scroller, section, tag
from discl.watching.state import State

RELOAD_S = 5


def facts(state: State) -> dict[str, str]:
    """Names and values, as text."""
    progress = state.progress
    found = {
        "run": f"{state.run_id or 'no run yet'}: {state.status}",
        "samples": f"{state.samples:,} sealed in {state.shards:,} shards, {state.bytes / 1e6:,.1f} MB",
        "quarantined": f"{state.quarantined:,}",
        "workers": f"{state.alive} alive" + (f" of {len(state.workers)} so far" if state.workers else ""),
    }
    if state.failure:
        found["failure"] = state.failure
    if state.status == "silent":
        found["run"] += f" for {duration(state.age_s)}: it may be dead; start it again to continue"
    if progress:
        found["progress"] = f"{progress['done']:,} of {progress['total']:,} in this run, {progress['rate']:.3g}/s"
        if progress.get("eta_s") is not None and state.live:
            found["left"] = duration(progress["eta_s"])
        if progress.get("usd") is not None:
            found["cost so far"] = dollars(progress["usd"])
    return found


def level_rows(state: State) -> list[tuple[str, ...]]:
    return [
        (str(level), f"{counts['made']:,}", f"{counts['accepted']:,}", f"{counts['accepted'] / counts['made']:.1%}")
        for level, counts in state.levels.items()
    ]


def error_lines(state: State) -> list[str]:
    """The last ones of workers and of inputs, with their reasons."""
    workers = [
        f"{_clock(error['time'])} {error['host']} {error['worker'][-4:]} {error['reason']}" for error in state.errors
    ]
    return workers + [f"{bad['path']}: {bad['reason']}" for bad in state.bad]


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


HEAD = ("level", "made", "accepted", "share")


def as_text(state: State) -> str:
    lines = [f"{name:12} {value}" for name, value in facts(state).items()]
    rows = [HEAD, *level_rows(state)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines += ["", *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)]
    if errors := error_lines(state):
        lines += ["", "last errors", *errors]
    return "\n".join(lines) + "\n"


def as_page(state: State) -> str:
    """One file that a browser loads again by itself while the run is live."""
    cells = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in facts(state).items()]
    levels = [tag("tr", *(tag("td", cell) for cell in row)) for row in level_rows(state)]
    of_worker = ("name", "host", "state", "samples")
    workers = [tag("tr", *(tag("td", worker[name]) for name in of_worker)) for worker in state.workers]
    sections = [
        section("run", "Run", scroller("Run", tag("table", tag("tbody", *cells)))),
        section("levels", "Levels", scroller("Levels", tag("table", headings(*HEAD), tag("tbody", *levels)))),
    ]
    if workers:
        table = tag("table", headings(*of_worker), tag("tbody", *workers))
        sections.append(section("workers", "Workers", scroller("Workers", table)))
    if errors := error_lines(state):
        sections.append(section("errors", "Last errors", tag("pre", "\n".join(errors))))
    reload = tag("meta", http_equiv="refresh", content=str(RELOAD_S)) if state.live else None
    style = Markup((files("discl.report") / "style.css").read_text("utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        reload,
        tag("title", f"{state.status}: {state.store}"),
        tag("style", style),
    )
    return "<!doctype html>" + tag("html", head, tag("body", tag("main", tag("h1", state.store), *sections)), lang="en")


def as_prometheus(state: State) -> str:
    """For node_exporter's textfile collector."""
    return "".join(f"{line}\n" for line in _metrics(state))


def _metrics(state: State) -> Iterator[str]:
    store, progress = _label(state.store), state.progress
    single = {
        "discl_up": ("gauge", "1 while a run writes the store", int(state.live)),
        "discl_workers": ("gauge", "Workers alive", state.alive),
        "discl_sealed_samples": ("gauge", "Rows in sealed shards", state.samples),
        "discl_sealed_bytes": ("gauge", "Bytes of sealed shards", state.bytes),
        "discl_quarantined": ("gauge", "Bad inputs of the run", state.quarantined),
        "discl_done": ("gauge", "Samples that the run made", progress.get("done", 0)),
        "discl_total": ("gauge", "Samples that the run makes", progress.get("total", 0)),
        "discl_rate": ("gauge", "Samples per second", progress.get("rate", 0.0)),
        "discl_usd": ("gauge", "Cost so far", progress.get("usd") or 0.0),
    }
    for name, (kind, help, value) in single.items():
        yield f"# HELP {name} {help}"
        yield f"# TYPE {name} {kind}"
        yield f'{name}{{store="{store}"}} {value}'
    for name, part in (("discl_level_made", "made"), ("discl_level_accepted", "accepted")):
        yield f"# HELP {name} Sealed samples of a level: {part}"
        yield f"# TYPE {name} gauge"
        for level, counts in state.levels.items():
            yield f'{name}{{store="{store}",level="{level}"}} {counts[part]}'


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
