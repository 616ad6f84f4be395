"""What an export holds in, its README.md in the Hugging Face dataset-card form out."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from discl.store.reader import Store

LICENSE_COLUMNS = ("license", "licence")
MARK = b"trainedAlgorithmicMedia"
CLASSES_SHOWN = 200
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
COLUMNS = (
    "`level` is the share of the source image in the guidance, in percent (0: text alone; 100 would be the real image)."
    " `source_id` names the real image that a sample was made from. `text_score` and `image_score` are CLIP cosine"
    " similarities; empty where nothing was scored."
)
CONFIGS = {"wds": 'data_files: "*.tar"', "imagefolder": 'data_files: "**"', "hf": 'data_files: "data/*.parquet"'}


class Census:
    """Counts what an export holds while it is written."""

    def __init__(self) -> None:
        self.images = self.marked = 0
        self.levels: Counter[tuple[str, int]] = Counter()
        self.licenses: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.recipes: Counter[str] = Counter()

    def add(self, row: dict[str, Any], image: bytes) -> None:
        self.images += 1
        self.marked += MARK in image
        self.levels[row["class_name"] or "", -1 if row["level"] is None else row["level"]] += 1
        self.runs[row["run_id"] or "unknown"] += 1
        self.recipes[row["recipe"] or "unknown"] += 1
        names = [name for name in LICENSE_COLUMNS if name in row]
        if names:
            self.licenses[str(row[names[0]] or "unknown")] += 1


def data_card(store: Store, selection: str, format: str, census: Census) -> str:
    """Markdown with a YAML head: contents per class and level, models, recipes, licences, what is synthetic."""
    parts = [
        _head(census, format),
        f"# Synthetic spectrum ({census.images:,} images)",
        _disclosure(census),
        _origin(store, selection),
        "## Images per class and level\n\n" + _counts(census),
        "## Models and recipes\n\n" + _models(store, census),
        "## Licences of the source images\n\n" + _licenses(census),
        "## Columns\n\n" + COLUMNS,
    ]
    return "\n\n".join(parts) + "\n"


def _head(census: Census, format: str) -> str:
    size = next((name for limit, name in SIZES if census.images < limit), "n>10M")
    licenses = sorted(census.licenses)
    config = f"configs:\n- config_name: default\n  {CONFIGS[format]}"
    return "\n".join(
        [
            "---",
            "pretty_name: Synthetic image spectrum",
            "task_categories:\n- image-classification",
            f"size_categories:\n- {size}",
            f"license: other\nlicense_name: {json.dumps(', '.join(licenses) or 'unknown')}",
            "tags:\n- synthetic\n- diffusion-curriculum",
            config,
            "---",
        ]
    )


def _disclosure(census: Census) -> str:
    text = (
        "**These images are synthetic.** They were made by a diffusion model from real images and text; they show"
        " nothing that happened and nobody who exists."
    )
    if census.marked == census.images:
        return f"{text} Every file says so in its XMP metadata: IPTC digital source type `trainedAlgorithmicMedia`."
    return (
        f"{text} {census.marked:,} of {census.images:,} files say so in their XMP metadata (IPTC digital source type"
        " `trainedAlgorithmicMedia`); the others were imported without that mark."
    )


def _origin(store: Store, selection: str) -> str:
    rule = json.dumps(store.selection_rule(selection), sort_keys=True, ensure_ascii=False)
    return (
        f"Exported by discl from snapshot `{store.snapshot()}`, selection `{selection}`. The rule that chose the"
        f" images:\n\n```json\n{rule}\n```"
    )


def _counts(census: Census) -> str:
    levels = sorted({level for _, level in census.levels})
    classes = sorted({name for name, _ in census.levels})
    lines = [[name, *(census.levels[name, level] for level in levels)] for name in classes[:CLASSES_SHOWN]]
    total = ["all", *(sum(census.levels[name, level] for name in classes) for level in levels)]
    heads = ["class", *("no level" if level < 0 else f"level {level}" for level in levels)]
    table = _table([*heads, "all"], [[*line, sum(line[1:])] for line in [*lines, total]])
    more = len(classes) - CLASSES_SHOWN
    return table + (f"\n\n({more:,} further classes are in the last line alone.)" if more > 0 else "")


def _models(store: Store, census: Census) -> str:
    lines = [[run, census.runs[run], *_model(store.path / "runs" / f"{run}.json")] for run in sorted(census.runs)]
    recipes = "\n".join(f"- `{recipe}`: {count:,} images" for recipe, count in sorted(census.recipes.items()))
    return _table(["run", "images", "model", "settings"], lines) + f"\n\nRecipes:\n\n{recipes}"


def _model(file: Path) -> tuple[str, str]:
    """What a run's record says; unknown where there is none."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        recipe, config = facts.get("recipe", {}), facts.get("config", {})
        name = Path(str(config.get("model", {}).get("path") or "unknown")).name
        settings = ", ".join(f"{key} {value}" for key, value in recipe.items() if isinstance(value, (str, int, float)))
    except (OSError, ValueError, AttributeError):
        return "unknown", "no record of this run"
    return name, settings


def _licenses(census: Census) -> str:
    if not census.licenses:
        return "The data table had no column `license`: check the terms of the source images before you publish these."
    return _table(["license", "images"], [list(pair) for pair in sorted(census.licenses.items())])


def _table(heads: list[str], lines: Iterable[list[Any]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
