"""The part of `discl plan` about time and money: estimate, levers, budget, and what earlier runs really took."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from discl.config import RunConfig
from discl.errors import DisclError, StoreError
from discl.plan import Plan
from discl.planning.budget import choose
from discl.planning.estimate import Estimate, estimate
from discl.planning.history import made, measured, runs_of, seconds_of
from discl.planning.rates import Rates, assumed
from discl.planning.rows import of_rows
from discl.planning.work import Flops, flops_of
from discl.progress import OnEvent, dollars
from discl.sizes import made_size
from discl.store.home import writing_folder
from discl.store.remote import is_url

if TYPE_CHECKING:
    from discl.engine.pretrained.files import ModelFiles


def records_folder(config: RunConfig) -> Path:
    """Where this machine keeps the records of the store's runs."""
    path = config.store.path
    return writing_folder(path) if is_url(path) else Path(path)


def probe_store(config: RunConfig) -> Path:
    return Path(f"{records_folder(config)}.probe")


def make_probe(config: RunConfig, plan: Plan, sources: int, on_event: OnEvent) -> None:
    """The spectra of about so many sources, spread over the plan, in a store of their own.

    Where accepted images would be kept it keeps all: a probe is there to find the threshold, and may be told a lower.
    """
    from discl.generation import generate

    parts = max(1, round(len(plan.sources) / sources))
    keep = "all" if config.store.keep == "accepted" else config.store.keep
    aside = config.store.model_copy(update={"path": str(probe_store(config)), "keep": keep})
    engine = config.engine.model_copy(update={"early_rejection": False})
    try:
        generate(config.model_copy(update={"store": aside, "engine": engine}), on_event, part=(0, parts))
    except StoreError as error:
        raise StoreError(
            f"what an earlier probe made is in the way, remove that folder: {aside.path} ({error})"
        ) from error


def cost_lines(config: RunConfig, plan: Plan, files: "ModelFiles") -> list[str]:
    """Empty lines and tables as text."""
    if not plan.sources:
        return ["", "cost              none: no source can be made"]
    before, history = _rates_before(config, plan, files), _history(config, plan)
    rates = history or before
    if rates is None:
        return ["", "cost              unknown: run `discl plan --probe`, or set [budget] gpu to a name of the table"]
    cost = estimate(plan, rates, config.budget)
    return [
        *_estimate_lines(config, cost, rates),
        *_lever_lines(config, plan, rates, cost),
        *_budget_lines(config, plan, rates),
        *_actual_lines(config, plan, before or rates, history),
    ]


def _history(config: RunConfig, plan: Plan) -> Rates | None:
    return measured(records_folder(config), plan, "this store's runs")


def _rates_before(config: RunConfig, plan: Plan, files: "ModelFiles") -> Rates | None:
    """What can be known before the run: a probe, else benchmark rows, else the table."""
    probed = measured(probe_store(config), plan, "the probe")
    if probed or not (config.budget.gpu or config.budget.rows):
        return probed
    rates = of_rows if config.budget.rows else assumed
    return rates(config, _flops(config, plan, files))


def _flops(config: RunConfig, plan: Plan, files: "ModelFiles") -> Flops:
    spectrum = config.spectrum
    with Image.open(plan.table.source(plan.sources[0].rows[0])) as image:
        size = made_size(*image.size, spectrum.size, spectrum.size_policy, spectrum.upscale) or image.size
    try:
        return flops_of(config, files, size)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DisclError(f"{files.name}: its work cannot be counted ({error}); plan with --probe instead") from error


def _estimate_lines(config: RunConfig, cost: Estimate, rates: Rates) -> list[str]:
    rows = [("level", "attempts", "accepted", "share", "worker-hours")]
    for level in cost.levels:
        share = rates.acceptance.get(level.level)
        rows.append(
            (
                f"{level.level}",
                f"{level.attempts:,.0f}",
                _count(level.accepted),
                "?" if share is None else f"{share:.1%}",
                f"{level.hours:,.4g}",
            )
        )
    rows.append(("all", f"{cost.attempts:,.0f}", _count(cost.accepted), "", f"{cost.hours:,.4g}"))
    facts = {"rate": rates.basis, "start-up": f"{rates.start:,.3g} s of a worker, included"}
    facts["worker-hours"] = f"{cost.hours:,.4g}"
    if cost.span:
        low, high = (f"{hours:,.3g}" for hours in cost.span)
        facts["worker-hours"] += f" ({low} to {high} in four runs of five, as unevenly as the measured went)"
    if config.budget.workers > 1:
        facts["wall clock"] = f"{cost.hours / config.budget.workers:,.4g} hours on {config.budget.workers} workers"
    if cost.waste:
        facts["preemption"] = f"{cost.waste:.2%} lost at a mean life of {config.budget.preemption_hours:g} hours"
    if cost.usd is not None:
        facts["cost"] = dollars(cost.usd) + _per_million(cost)
    return ["", *(f"{name:18}{value}" for name, value in facts.items()), "", *_table(rows)]


def _per_million(cost: Estimate) -> str:
    if not cost.accepted or cost.usd is None:
        return ""
    return f", ${1e6 * cost.usd / cost.accepted:,.0f} per million accepted images"


def _lever_lines(config: RunConfig, plan: Plan, rates: Rates, cost: Estimate) -> list[str]:
    """What the run would take without each of the things that make it cheaper."""
    spectrum, images = config.spectrum, cost.attempts
    steps = {level: work.steps for level, work in plan.work.items()}
    guided = {level.level: level.evaluations / max(1.0, level.attempts * steps[level.level]) for level in cost.levels}
    whole = sum(level.attempts * spectrum.steps * guided[level.level] for level in cost.levels)
    rows = [("lever", "evaluations without", "more", "worker-hours without")]
    without = {"levels start part-way": whole}
    if rates.avoided:
        without["early rejection"] = cost.evaluations / (1 - rates.avoided)
    if spectrum.guidance_interval:
        without["guidance interval"] = sum(2 * level.attempts * steps[level.level] for level in cost.levels)
    for name, evaluations in without.items():
        hours = cost.hours + rates.seconds(evaluations - cost.evaluations, 0) / 3600 / (1 - cost.waste)
        rows.append((name, f"{evaluations:,.0f}", f"{evaluations / cost.evaluations - 1:+.0%}", f"{hours:,.4g}"))
    once = f"sources encoded once: {len(plan.sources):,} encodings instead of {images:,.0f}"
    return ["", *_table(rows), once]


def _budget_lines(config: RunConfig, plan: Plan, rates: Rates) -> list[str]:
    budget = config.budget
    if not budget.usd and not budget.hours:
        return []
    limits = [dollars(budget.usd)] if budget.usd else []
    limits += [f"{budget.hours:g} hours on {budget.workers} workers"] if budget.hours else []
    found = choose(plan, rates, budget)
    if found is None:
        return ["", f"budget            {' and '.join(limits)}: not one seed at one level fits"]
    lines = ["", f"budget            {' and '.join(limits)}, {budget.keep} kept first"]
    if not found.cut:
        return [*lines, "fits              everything"]
    seeds = list(config.spectrum.seeds[: found.seeds])
    return [
        *lines,
        f"fits              levels = {list(found.levels)}, seeds = {seeds}: {found.estimate.hours:,.4g} worker-hours",
        f"cut               levels {list(found.cut_levels)}, {found.cut_seeds} of {len(config.spectrum.seeds)} seeds",
        f"to run it         --set 'spectrum.levels={list(found.levels)}' --set 'spectrum.seeds={seeds}'",
    ]


def _actual_lines(config: RunConfig, plan: Plan, rates: Rates, history: Rates | None) -> list[str]:
    """Plan and actual side by side, once the store has runs of this recipe. rates: what was known before them."""
    runs = [run for run in runs_of(records_folder(config), plan.recipe_digest) if made(run)]
    if not runs:
        return []
    cost, spent = estimate(plan, rates, config.budget), sum(map(seconds_of, runs)) / 3600
    actual: list[tuple[str, float | None, float]] = [
        ("images", cost.attempts, sum(map(made, runs))),
        ("accepted", cost.accepted, sum(run["counts"].get("accepted", 0) for run in runs)),
        ("UNet evaluations", cost.evaluations, sum(run["unet_evaluations"] for run in runs)),
        ("worker-hours", cost.hours, spent),
    ]
    if rates.bytes and history and history.bytes:
        actual.append(("bytes per image", rates.bytes, history.bytes))
    if cost.usd is not None:
        actual.append(("USD", cost.usd, spent * config.budget.usd_per_hour))
    rows = [("", "plan", "actual", "error")]
    rows += [(name, _count(plan), _count(real), _error(plan, real)) for name, plan, real in actual]
    return ["", f"planned by        {rates.basis}", "", *_table(rows)]


def _error(plan: float | None, real: float) -> str:
    return "?" if plan is None or not real else f"{round(plan / real - 1, 3) + 0.0:+.1%}"  # + 0.0: no minus zero


def _count(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:,.4g}"


def _table(rows: Sequence[Sequence[Any]]) -> Iterable[str]:
    widths = [max(5, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    for row in rows:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([first, *rest])
