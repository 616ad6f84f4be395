"""Config in, the text of `discl plan` out: counts, UNet evaluations, images per level, bytes."""

from itertools import islice
from pathlib import Path

from PIL import Image

from discl.cli.plan_costs import cost_lines, make_probe
from discl.config import RunConfig
from discl.data import load_data
from discl.hard import select_hard
from discl.plan import Plan, make_plan
from discl.progress import OnEvent, ignore
from discl.recipe import make_recipe, model_files, recipe_of, resolved
from discl.sizes import made_size

BYTES_PER_PIXEL = {"jpg": 0.5, "png": 1.8, "webp": 0.3}  # photographs at quality 95; a rough guide
SIZED_SOURCES = 64


def summarise(config: RunConfig, probe: int = 0, on_event: OnEvent = ignore) -> str:
    """Plan the run without loading weights into memory or making an image; with `probe`, after making the spectra of
    about so many sources beside the store, to measure with."""
    recipe, files = recipe_of(config, ""), None
    if config.model.path:
        files = model_files(config)
        recipe = make_recipe(config, files)
        config = resolved(config, files, recipe)
    table = load_data(config.data)
    rows = select_hard(config.hard, table)
    plan = make_plan(config, table, rows, recipe, files)
    if probe:
        make_probe(config, plan, probe, on_event)
    least, most = plan.attempts.best_of, plan.attempts.most
    facts = {
        "hard images": f"{len(rows):,} ({len(plan.sources):,} distinct, {len(plan.quarantined):,} unusable)",
        "classes": f"{len(set(table.labels[rows].tolist())):,} of {len(table.class_names):,}",
        "seeds": f"{len(config.spectrum.seeds):,}",
        "attempts": f"{_span(least, most)} per image",
        "images": f"{_span(least * len(plan), most * len(plan))}, of which {_stored(config, plan):,} are in the store",
        "UNet evaluations": _span(least * plan.unet_evaluations, most * plan.unet_evaluations),
        "bytes": f"about {_bytes(config, plan)} of {config.store.format}",
        "store": config.store.path,
        "recipe": plan.recipe_digest if config.model.path else "unknown until [model] path is set",
    }
    if most == 1:
        del facts["attempts"]
    if config.spectrum.fill != "none":
        wanted, seeds = config.spectrum.fill, config.spectrum.fill_seeds
        facts["fill"] = f"at most {seeds:,} more seeds where fewer than {wanted:,} of a source and level are accepted"
    lines = [f"{name:18}{value}" for name, value in facts.items()]
    costs = cost_lines(config, plan, files) if files else []
    return "\n".join([*lines, "", *_levels(config, plan), *costs]) + "\n"


def _span(least: int, most: int) -> str:
    """Retries depend on scores, so what is made lies between two numbers."""
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _levels(config: RunConfig, plan: Plan) -> list[str]:
    attempts = [len(plan.sources) * len(config.spectrum.seeds) * n for n in (plan.attempts.best_of, plan.attempts.most)]
    rows = [("level", "steps", "images", "evaluations")]
    for level, work in plan.work.items():
        evaluations = _span(*(count * work.evaluations for count in attempts))
        rows.append((str(level), str(work.steps), _span(*attempts), evaluations))
    widths = [max(5, *(len(row[column]) for row in rows)) for column in range(4)]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]


def _stored(config: RunConfig, plan: Plan) -> int:
    """How many of the attempts that the plan may come to are there."""
    if not (Path(config.store.path) / "manifest").is_dir():
        return 0
    from discl.store import Store

    have = set(Store(config.store.path).keys())
    tried = range(plan.attempts.most)
    return sum(plan.attempt(first, retry).key in have for first in plan for retry in tried) if have else 0


def _bytes(config: RunConfig, plan: Plan) -> str:
    one = _image_bytes(config, plan)
    return " to ".join(dict.fromkeys(size(len(plan) * n * one) for n in (plan.attempts.best_of, plan.attempts.most)))


def _image_bytes(config: RunConfig, plan: Plan) -> float:
    """Expected bytes of one image, from the header sizes of some sources."""
    if config.store.keep == "scores":
        return 0.0
    pixels = [_pixels(config, plan.table.source(source.rows[0])) for source in islice(plan.sources, SIZED_SOURCES)]
    return BYTES_PER_PIXEL[config.store.format] * sum(pixels) / max(1, len(pixels))


def _pixels(config: RunConfig, path: str) -> int:
    spectrum = config.spectrum
    with Image.open(path) as image:
        made = made_size(*image.size, spectrum.size, spectrum.size_policy, spectrum.upscale)
        kept = image.size if spectrum.upscale > 1 or made is None else made
    return kept[0] * kept[1]


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
