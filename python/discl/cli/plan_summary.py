"""Config in, the text of `discl plan` out: counts, UNet evaluations, images per level, bytes."""

from itertools import islice
from pathlib import Path

from PIL import Image

from discl.config import RunConfig
from discl.data import load_data
from discl.hard import select_hard
from discl.plan import Plan, make_plan
from discl.recipe import make_recipe, recipe_of
from discl.sizes import fit_size

BYTES_PER_PIXEL = {"jpg": 0.5, "png": 1.8, "webp": 0.3}  # photographs at quality 95; a rough guide
SIZED_SOURCES = 64


def summarise(config: RunConfig) -> str:
    """Plan the run without loading weights into memory or making an image."""
    recipe = make_recipe(config) if config.model.path else recipe_of(config, "")
    table = load_data(config.data)
    rows = select_hard(config.hard, table)
    plan = make_plan(config, table, rows, recipe)
    facts = {
        "hard images": f"{len(rows):,} ({len(plan.sources):,} distinct, {len(plan.quarantined):,} unusable)",
        "classes": f"{len(set(table.labels[rows].tolist())):,} of {len(table.class_names):,}",
        "seeds": f"{len(config.spectrum.seeds):,}",
        "images": f"{len(plan):,}, of which {_stored(config, plan):,} are in the store",
        "UNet evaluations": f"{plan.unet_evaluations:,}",
        "bytes": f"about {size(len(plan) * _image_bytes(config, plan))} of {config.store.format}",
        "store": config.store.path,
        "recipe": plan.recipe_digest if config.model.path else "unknown until [model] path is set",
    }
    lines = [f"{name:18}{value}" for name, value in facts.items()]
    return "\n".join([*lines, "", *_levels(config, plan)]) + "\n"


def _levels(config: RunConfig, plan: Plan) -> list[str]:
    images = len(plan.sources) * len(config.spectrum.seeds)
    lines = [f"{'level':>5} {'steps':>6} {'images':>12} {'evaluations':>14}"]
    for level, work in plan.work.items():
        lines.append(f"{level:5d} {work.steps:6d} {images:12,d} {images * work.evaluations:14,d}")
    return lines


def _stored(config: RunConfig, plan: Plan) -> int:
    if not (Path(config.store.path) / "manifest").is_dir():
        return 0
    from discl.store import Store

    have = set(Store(config.store.path).table["key"].to_pylist())
    return sum(planned.key in have for planned in plan)


def _image_bytes(config: RunConfig, plan: Plan) -> float:
    """Expected bytes of one image, from the header sizes of some sources."""
    if config.store.keep == "scores":
        return 0.0
    pixels = [_pixels(config, plan.table.paths[source.rows[0]]) for source in islice(plan.sources, SIZED_SOURCES)]
    return BYTES_PER_PIXEL[config.store.format] * sum(pixels) / max(1, len(pixels))


def _pixels(config: RunConfig, path: str) -> int:
    size, policy = config.spectrum.size, config.spectrum.size_policy
    if size is None or policy == "fit":
        with Image.open(path) as image:
            width, height = image.size if size is None else fit_size(*image.size, bound=size)
        return width * height
    return size[0] * size[1]


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
