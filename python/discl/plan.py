"""Config, table and hard rows in; `Plan` out: every sample to make, in order, without holding an image.

A plan keeps one small record per distinct source; samples are computed from it when they are asked for, so a
plan of millions of samples costs megabytes.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image

from discl.config import RunConfig, SpectrumConfig
from discl.data.images import open_image
from discl.data.table import DataTable
from discl.errors import ConfigError, DataError
from discl.prompts import Prompts, fill
from discl.recipe import digest, sample_key, source_digests
from discl.sizes import apply_policy, executed_steps

if TYPE_CHECKING:
    from discl.engine import Request

log = logging.getLogger(__name__)

SMALLEST_SIDE = 8  # pixels; a latent cell of the supported models. A coarser model's engine says so by itself.


@dataclass(frozen=True, slots=True)
class Source:
    """Distinct image bytes of one class. `rows` are the table's rows that hold them, the first is opened."""

    rows: tuple[int, ...]
    digest: str
    noise_seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One image to make. `row` is the table's row to open; `source_ids` names all rows with its bytes."""

    key: str
    row: int
    source_ids: tuple[str, ...]
    source_digest: str
    class_id: int
    class_name: str
    level: int
    seed: int
    retry: int
    noise_seed: int
    prompt: str
    negative_prompt: str

    @property
    def source_id(self) -> str:
        return self.source_ids[0]


def make_plan(config: RunConfig, table: DataTable, hard_rows: np.ndarray, recipe: dict) -> "Plan":
    """Read the bytes of every hard image once, merge equal ones of a class, fix prompts and seeds.

    Raises ConfigError when a level would run zero steps or a template is wrong. A file that cannot be read is
    in `.quarantined`, and so are bytes that occur in two classes whose prompts do not differ.
    """
    spectrum = config.spectrum
    check_steps(spectrum)
    named = tuple(table.class_names[label] for label in np.unique(table.labels[hard_rows]))
    prompts = Prompts(spectrum.prompt, spectrum.prompts, named)
    plan = Plan(table, spectrum, prompts, digest(recipe))
    merged: dict[tuple[str, tuple[str, ...]], Source] = {}
    for row in hard_rows:
        _add(plan, merged, int(row))
    plan.sources.extend(merged.values())
    return plan


def check_steps(spectrum: SpectrumConfig) -> None:
    highest = max(spectrum.levels)
    if executed_steps(spectrum.steps, highest) == 0:
        smallest = -(-100 // (100 - highest))
        raise ConfigError(
            f"[spectrum] levels has {highest} and steps = {spectrum.steps}: that level would run 0 steps; "
            f"set steps = {smallest} or more, or drop the level"
        )


def _add(plan: "Plan", merged: dict[tuple[str, tuple[str, ...]], Source], row: int) -> None:
    """File a row under its source. Equal bytes with equal prompts would make equal keys."""
    try:
        with open(plan.table.paths[row], "rb") as file:
            source_digest, noise_seeds = source_digests(file.read(), plan.spectrum.seeds)
    except OSError as error:
        plan.quarantine(row, f"cannot be read: {error.strerror or error}")
        return
    place = (source_digest, plan.texts(row))
    known = merged.get(place)
    if known and plan.table.labels[known.rows[0]] != plan.table.labels[row]:
        other = plan.table.ids[known.rows[0]]
        plan.quarantine(row, f"the same bytes belong to another class as {other}, with the same prompt")
        return
    merged[place] = Source((*(known.rows if known else ()), row), source_digest, noise_seeds)


@dataclass
class Plan(Sequence[PlannedSample]):
    """Samples in order: source by source, seed by seed, level by level. `requests` opens images lazily."""

    table: DataTable
    spectrum: SpectrumConfig
    prompts: Prompts
    recipe_digest: str
    sources: list[Source] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    _texts: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def per_source(self) -> int:
        return len(self.spectrum.seeds) * len(self.spectrum.levels)

    @property
    def unet_evaluations(self) -> int:
        """Network evaluations of the whole plan; text guidance other than 1 needs two per step."""
        steps = sum(executed_steps(self.spectrum.steps, level) for level in self.spectrum.levels)
        per_step = 1 if self.spectrum.text_guidance == 1 else 2
        return len(self.sources) * len(self.spectrum.seeds) * steps * per_step

    def __len__(self) -> int:
        return len(self.sources) * self.per_source

    @overload
    def __getitem__(self, index: int) -> PlannedSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlannedSample]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        source, place = divmod(index % len(self), self.per_source)
        return self._sample(self.sources[source], *divmod(place, len(self.spectrum.levels)))

    def __iter__(self) -> Iterator[PlannedSample]:
        for source in self.sources:
            yield from self.samples_of(source)

    def samples_of(self, source: Source) -> Iterator[PlannedSample]:
        for number in range(len(self.spectrum.seeds)):
            for place in range(len(self.spectrum.levels)):
                yield self._sample(source, number, place)

    def _sample(self, source: Source, number: int, place: int) -> PlannedSample:
        row, seed, level = source.rows[0], self.spectrum.seeds[number], self.spectrum.levels[place]
        *prompts, negative = self.texts(row)
        label = int(self.table.labels[row])
        return PlannedSample(
            key=sample_key(source.digest, self.recipe_digest, prompts[number], negative, level, seed),
            row=row,
            source_ids=tuple(self.table.ids[row] for row in source.rows),
            source_digest=source.digest,
            class_id=label,
            class_name=self.table.class_names[label],
            level=level,
            seed=seed,
            retry=0,
            noise_seed=source.noise_seeds[number],
            prompt=prompts[number],
            negative_prompt=negative,
        )

    def texts(self, row: int) -> tuple[str, ...]:
        """The class's prompt for every seed, then its negative prompt; computed once per class."""
        label = int(self.table.labels[row])
        if label not in self._texts:
            name = self.table.class_names[label]
            negative = fill(self.spectrum.negative_prompt, name, "spectrum.negative_prompt")
            self._texts[label] = (*(self.prompts(name, seed) for seed in self.spectrum.seeds), negative)
        return self._texts[label]

    def quarantine(self, row: int, reason: str) -> None:
        path = self.table.paths[row]
        log.warning("%s: quarantined: %s", path, reason)
        self.quarantined.append((path, reason))

    def requests(self, skip_keys: Collection[str] = ()) -> Iterator["Request"]:
        """The engine's requests for what is not in `skip_keys`, in plan order."""
        return (request for _, request in self.due(skip_keys))

    def due(
        self, skip_keys: Collection[str] = (), on_bad: Callable[[str, str], None] | None = None
    ) -> Iterator[tuple[PlannedSample, "Request"]]:
        """The same with the planned sample beside its request. Each source is opened once, when it is due.

        A source that cannot be decoded or is too small is quarantined, `on_bad(path, reason)` is called, its
        samples are left out.
        """
        for source in self.sources:
            missing = [planned for planned in self.samples_of(source) if planned.key not in skip_keys]
            if not missing:
                continue
            try:
                image, size = self._opened(self.table.paths[source.rows[0]])
            except DataError as error:
                self.quarantine(source.rows[0], str(error))
                if on_bad:
                    on_bad(*self.quarantined[-1])
                continue
            for planned in missing:
                yield planned, make_request(planned, image, size)

    def _opened(self, path: str) -> tuple[Image.Image, tuple[int, int] | None]:
        """The image and the size to make it at. DataError where a side is less than any model's latent cell."""
        image, size = apply_policy(open_image(path), self.spectrum.size, self.spectrum.size_policy)
        width, height = size or image.size
        if min(width, height) < SMALLEST_SIDE:
            raise DataError(
                f"{path}: would be made at {width} x {height} pixels, a side needs at least {SMALLEST_SIDE}; "
                "remove it or set [spectrum] size"
            )
        return image, size


def make_request(planned: PlannedSample, image: Image.Image, size: tuple[int, int] | None) -> "Request":
    from discl.engine import Request

    return Request(
        image=image,
        prompt=planned.prompt,
        level=planned.level,
        noise_seed=planned.noise_seed,
        negative_prompt=planned.negative_prompt,
        class_name=planned.class_name,
        source_id=planned.source_id,
        key=planned.key,
        size=size,
    )
