"""Config in, the text of `discl plan` out: counts, UNet evaluations, images per level, bytes, images per epoch."""

import os
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from discl.cli.plan_costs import cost_lines, make_probe
from discl.config import HardConfig, RunConfig, require_model
from discl.data import checked, load_data
from discl.errors import ConfigError
from discl.hard import select_hard, tail_rows
from discl.plan import Plan, PlannedSample, make_plan
from discl.progress import OnEvent, ignore
from discl.quarantine import check_share
from discl.recipe import make_recipe, model_files, recipe_of, resolved
from discl.rejection import check_config
from discl.selection import check_classes
from discl.sizes import made_size
from discl.sources import Source
from discl.trained import finished

if TYPE_CHECKING:
    from discl.store import Store

BYTES_PER_PIXEL = {"jpg": 0.5, "png": 1.8, "webp": 0.3}  # photographs at quality 95; a rough guide
SIZED_SOURCES = 64


class Planned:
    """A config's plan, made without loading weights into memory or making an image.

    Where no training image is there (`listed`), all is counted from the lists alone; so it is where the training that
    tells the hard ones has yet to run and `hard.limit` says how many they will be (`awaited`); the file of sentences
    may lack then (`unwritten`). against: a store to compare with instead of the config's own. probe: make the spectra
    of about so many sources beside the store to measure with.
    """

    def __init__(self, config: RunConfig, against: str = "", probe: int = 0, on_event: OnEvent = ignore):
        check_config(config)
        self.awaited = not (against or probe) and _awaited(config.hard)
        if self.awaited:  # any images will do to count by
            config = config.model_copy(update={"hard": config.hard.model_copy(update={"rule": "all"})})
        table = load_data(config.data, check=False)
        check_classes(config.score, table.class_names)
        self.listed = self.awaited or not (
            table.packed or any(os.path.exists(table.source(row)) for row in table.rows("train"))
        )
        self.table = table if self.listed else checked(table, config.data.max_bad_share)
        self.unwritten = config.spectrum.prompts if self.listed and not Path(config.spectrum.prompts).exists() else ""
        if self.unwritten:  # no text is in a count
            unsaid = {"prompts": "", "prompt": ""}
            config = config.model_copy(update={"spectrum": config.spectrum.model_copy(update=unsaid)})
        self.rows = select_hard(config.hard, self.table)
        recipe, files = recipe_of(config, ""), None
        if against or probe:
            require_model(config)
            if self.listed:
                raise ConfigError(f"data.root = {config.data.root}: no training image is there; put them below it")
        if config.model.path and not self.listed:
            files = model_files(config)
            recipe = make_recipe(config, files)
            config = resolved(config, files, recipe)
        self.config, self.files, self.store = config, files, against or config.store.path
        self.plan = make_plan(config, self.table, self.rows[:0] if self.listed else self.rows, recipe, files)
        if self.listed:
            self.plan.sources.extend(Source((int(row),), "", (0,) * len(config.spectrum.seeds)) for row in self.rows)
        else:
            self._quarantine()
        if probe:
            make_probe(config, self.plan, probe, on_event)

    def _quarantine(self) -> None:
        """As `generate` will; RunFailed where it will stop at so many."""
        self.plan.quarantine_unmakeable()
        bad = [*self.table.quarantined, *self.plan.quarantined]
        if bad:
            check_share(
                len(bad), len(self.table) + len(self.table.quarantined), self.config.data.max_bad_share, bad[-1]
            )

    def missing(self) -> Iterator[PlannedSample]:
        """The attempts that `generate` would make now for what the store lacks."""
        settles = self._settles()
        for first in self.plan:
            yield from self.plan.missing(first, settles)

    def _settles(self):
        store = self._opened()
        if store is None:
            return lambda planned: None
        from discl.recorded import Recorded

        if self.config.spectrum.retries:
            return Recorded(self.config.score, store)
        have = set(store.keys())
        return lambda planned: planned.key in have or None

    def _opened(self) -> "Store | None":
        """The store as it is; None before there is one."""
        from discl.store import Store, is_url
        from discl.store.remote import RemoteStore

        there = RemoteStore(self.store).exists() if is_url(self.store) else (Path(self.store) / "manifest").is_dir()
        return Store(self.store) if there else None

    @cached_property
    def text(self) -> str:
        plan = self.plan
        least, most = plan.attempts.best_of, plan.attempts.most
        facts = {
            "hard images": f"{len(self.rows):,} ({self._sources()})",
            "classes": f"{self._classes()} of {len(self.table.class_names):,}",
            "seeds": f"{len(self.config.spectrum.seeds):,}",
            "attempts": f"{_span(least, most)} per image",
            "images": f"{_span(least * len(plan), most * len(plan))}{self._stored()}",
            "UNet evaluations": _span(least * plan.unet_evaluations, most * plan.unet_evaluations),
            "decodes": _span(least * len(plan), most * len(plan)),
            "CLIP images": _span(*(len(plan.sources) + n * len(plan) for n in (least, most))),
            "bytes": "unknown" if self.listed else f"about {self._bytes()}",
            "store": self.store,
            "recipe": plan.recipe_digest if self.config.model.path and not self.listed else "unknown",
            **self._training(),
        }
        if not self.config.model.path:
            facts["recipe"] = "unknown until [model] path is set"
        if most == 1:
            del facts["attempts"]
        if self.config.score is None:
            del facts["CLIP images"]
        if self.unwritten:
            facts["prompts"] = f"{self.unwritten} is not there yet: `discl prompts` writes it"
        if self.config.spectrum.fill != "none":
            wanted, seeds = self.config.spectrum.fill, self.config.spectrum.fill_seeds
            facts["fill"] = (
                f"at most {seeds:,} more seeds where fewer than {wanted:,} of a source and level are accepted"
            )
        lines = [f"{name:18}{value}" for name, value in facts.items()]
        costs = cost_lines(self.config, plan, self.files) if self.files else []
        return "\n".join([*lines, "", *_levels(self.config, plan), *costs]) + "\n"

    def _classes(self) -> str:
        return "unknown" if self.awaited else f"{len(set(self.table.labels[self.rows].tolist())):,}"

    def _sources(self) -> str:
        if self.awaited:
            return f"hard.limit; which ones, the training {self.config.hard.run} will tell: it has not finished"
        if self.listed:
            return "counted from the lists: none of the images is there"
        return f"{len(self.plan.sources):,} distinct, {len(self.plan.quarantined):,} unusable"

    def _stored(self) -> str:
        """How many of the attempts that the plan may come to are there."""
        if self.listed:
            return ""
        store = self._opened()
        have = set(store.keys()) if store else set()
        tried = range(self.plan.attempts.most)
        each = (self.plan.attempt(first, retry).key for first in self.plan for retry in tried)
        there = sum(key in have for key in each) if have else 0
        return f", of which {there:,} are in the store"

    def _bytes(self) -> str:
        plan, one = self.plan, _image_bytes(self.config, self.plan)
        counts = dict.fromkeys(size(len(plan) * n * one) for n in (plan.attempts.best_of, plan.attempts.most))
        return f"{' to '.join(counts)} of {self.config.store.format}"

    def _training(self) -> dict[str, str]:
        """Images and steps of one epoch by the mixing rule, which real images alone decide."""
        from discl.curriculum import Curriculum
        from discl.dataset import SpectrumDataset

        dataset = SpectrumDataset(None, self.table, tail=tail_rows(self.config.hard, self.table, self.rows))
        real = self.config.curriculum.model_copy(update={"policy": "real-only"})
        curriculum, batch = Curriculum(dataset, real, self.config.train.seed), self.config.train.batch
        parts = f"{curriculum.mix.tail:,} tail, {curriculum.mix.nontail:,} other" if curriculum.fill == "share" else ""
        return {
            "training images": f"{dataset.n_real:,} real, {len(curriculum.tail):,} of them tail",
            "images per epoch": f"{curriculum.total:,}" + (f" ({parts})" if parts else ""),
            "steps per epoch": f"{-(-curriculum.total // batch):,} of {batch}",
            "epochs": f"{real.epochs}, the first {curriculum.epochs} with levels",
        }


def _awaited(hard: HardConfig) -> bool:
    """Whether the number of hard images is known before the training that tells which they are."""
    waits = hard.rule in ("confidence", "loss") and hard.limit and hard.threshold is None and hard.run
    return bool(waits) and not finished(hard.run)


def summarise(config: RunConfig, against: str = "") -> str:
    return Planned(config, against).text


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
