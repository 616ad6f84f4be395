"""Config, table and hard rows in; `Plan` out: every sample to make, in order, without holding an image.

A plan keeps one small record per distinct source; samples are computed from it when they are asked for, so a
plan of millions of samples costs megabytes.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image

from discl.attempts import Attempts
from discl.config import RunConfig, SpectrumConfig
from discl.data.table import DataTable
from discl.errors import ConfigError, DataError
from discl.level_work import LevelWork, level_work
from discl.prompts import Prompts, fill
from discl.quarantine import bare
from discl.recipe import digest, retry_noise_seed, sample_key
from discl.rejection import is_control
from discl.source_image import open_source, refusals
from discl.sources import Source, read_sources

if TYPE_CHECKING:
    from discl.engine import Request
    from discl.engine.pretrained.files import ModelFiles

log = logging.getLogger(__name__)

CAPTION = "{caption}"
Settles = Callable[["PlannedSample"], "bool | None"]


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One image to make. `row` is the table's row to open; `source_ids` names all rows with its bytes.

    `retry` numbers the attempts at one (source, level, seed); `first` is the first of them, None for itself.
    `control`: never rejected early.
    """

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
    first: "PlannedSample | None" = None
    control: bool = False

    @property
    def source_id(self) -> str:
        return self.source_ids[0]

    @property
    def attempt_of(self) -> str | None:
        """The key of the first attempt, None for that itself."""
        return self.first.key if self.first else None


def make_plan(
    config: RunConfig, table: DataTable, hard_rows: np.ndarray, recipe: dict, files: "ModelFiles | None" = None
) -> "Plan":
    """Read the bytes of every hard image once, merge equal ones of a class, fix prompts and seeds.

    files: the model's, for exact costs (see `level_work`). Raises ConfigError when a level cannot be made, a template
    is wrong or the images are packed. A file that cannot be read is in `.quarantined`, and so are bytes that occur in
    two classes whose prompts do not differ.
    """
    spectrum = config.spectrum
    if table.packed:
        raise ConfigError(
            f"data.kind = 'store': {config.data.root} can be trained on; spectra are made from image files"
        )
    work = level_work(spectrum, files)
    named = tuple(table.class_names[label] for label in np.unique(table.labels[hard_rows]))
    prompts = Prompts(spectrum.prompt, spectrum.prompts, named, table.class_names)
    plan = Plan(table, spectrum, prompts, digest(recipe), work)
    plan.control_share = config.engine.control_share if config.engine.early_rejection else 0.0
    plan.check_captions(hard_rows)
    plan.sources.extend(read_sources(table, hard_rows, spectrum.seeds, plan.same_prompt, plan.quarantine))
    return plan


@dataclass
class Plan(Sequence[PlannedSample]):
    """First attempts in order: source by source, seed by seed, level by level. `due` opens images lazily."""

    table: DataTable
    spectrum: SpectrumConfig
    prompts: Prompts
    recipe_digest: str
    work: Mapping[int, LevelWork]
    control_share: float = 0.0
    sources: list[Source] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    _texts: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def attempts(self) -> Attempts:
        return Attempts(self.spectrum.best_of, self.spectrum.retries)

    @property
    def per_source(self) -> int:
        return len(self.spectrum.seeds) * len(self.spectrum.levels)

    @property
    def unet_evaluations(self) -> int:
        """Network evaluations of one attempt at everything."""
        return len(self.sources) * len(self.spectrum.seeds) * sum(work.evaluations for work in self.work.values())

    def with_seeds(self, seeds: tuple[int, ...], sources: Iterable[Source] = ()) -> "Plan":
        """The same for other seeds and sources, whose noise is that of these seeds."""
        spectrum = self.spectrum.model_copy(update={"seeds": seeds})
        return replace(self, spectrum=spectrum, sources=list(sources), quarantined=[], _texts={})

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
        key = sample_key(source.digest, self.recipe_digest, prompts[number], negative, level, seed)
        return PlannedSample(
            key=key,
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
            control=is_control(key, self.control_share),
        )

    def attempt(self, planned: PlannedSample, retry: int) -> PlannedSample:
        """Attempt `retry` at what `planned` is an attempt at: another prompt where there are several, other noise."""
        first = planned.first or planned
        if retry == 0:
            return first
        prompt = self._said(first.row, self.prompts(first.class_name, first.seed, retry))
        place = (prompt, first.negative_prompt, first.level, first.seed, retry)
        key = sample_key(first.source_digest, self.recipe_digest, *place)
        return replace(
            first,
            key=key,
            retry=retry,
            noise_seed=retry_noise_seed(first.source_digest, first.seed, retry),
            prompt=prompt,
            first=first,
            control=is_control(key, self.control_share),
        )

    def texts(self, row: int) -> tuple[str, ...]:
        """The row's prompt for every seed, then its negative prompt; computed once per class but for captions."""
        label = int(self.table.labels[row])
        if label not in self._texts:
            name = self.table.class_names[label]
            negative = fill(self.spectrum.negative_prompt, name, "spectrum.negative_prompt")
            self._texts[label] = (*(self.prompts(name, seed) for seed in self.spectrum.seeds), negative)
        *prompts, negative = self._texts[label]
        return (*(self._said(row, prompt) for prompt in prompts), negative)

    def _said(self, row: int, prompt: str) -> str:
        """The prompt with the image's own caption where it asks for one."""
        return prompt.replace(CAPTION, self.table.columns["caption"][row]) if CAPTION in prompt else prompt

    def check_captions(self, rows: Iterable[int]) -> None:
        """ConfigError where the prompt takes captions and the data has none, or a row's is blank."""
        if CAPTION not in self.spectrum.prompt:
            return
        captions = self.table.columns.get("caption")
        if captions is None:
            raise ConfigError(f"spectrum.prompt = {self.spectrum.prompt!r}: the data has no column 'caption'; add it")
        blank = next((int(row) for row in rows if not captions[row].strip()), None)
        if blank is not None:
            place = self.table.places[blank] if self.table.places else self.table.ids[blank]
            raise ConfigError(f"{place}: the caption is blank, and spectrum.prompt takes it; write one")

    def same_prompt(self, row: int, other: int) -> bool:
        """Whether the rows' classes share all texts of any attempt: equal bytes would make equal keys then."""
        if self.texts(row)[-1] != self.texts(other)[-1]:
            return False
        names = [self.table.class_names[self.table.labels[each]] for each in (row, other)]
        wishes = ((seed, retry) for seed in self.spectrum.seeds for retry in range(self.attempts.most))
        said = (
            [self._said(at, self.prompts(name, *wish)) for at, name in zip((row, other), names, strict=True)]
            for wish in wishes
        )
        return any(one == another for one, another in said)

    def quarantine(self, row: int, reason: str) -> None:
        path = self.table.source(row)
        reason = bare(path, reason)
        log.warning("%s: quarantined: %s", path, reason)
        self.quarantined.append((path, reason))

    def quarantine_unmakeable(self) -> None:
        """Do now what `due` does to sources of a size that no model can be asked for. Reads the header of every file,
        which making them does not need."""
        paths = [self.table.source(source.rows[0]) for source in self.sources]
        reasons = refusals(paths, self.spectrum)
        for source, reason in zip(self.sources, reasons, strict=True):
            if reason:
                self.quarantine(source.rows[0], reason)
        self.sources[:] = [source for source, reason in zip(self.sources, reasons, strict=True) if not reason]

    def missing(self, planned: PlannedSample, settles: Settles) -> list[PlannedSample]:
        """The attempts to make now at what `planned` is an attempt at, see `Attempts.due`."""
        due = self.attempts.due(lambda retry: settles(self.attempt(planned, retry)))
        return [self.attempt(planned, retry) for retry in due]

    def due(
        self,
        settles: Settles,
        on_bad: Callable[[str, str], None] | None = None,
        sources: Iterable[Source | None] | None = None,
    ) -> Iterator[tuple[PlannedSample, "Request"] | None]:
        """Attempts to make now beside the engine's requests, in order. Each source is opened once, when it is due.

        settles: what is known of a sample, as for `Attempts.due`. A source that cannot be decoded or is too small is
        quarantined, `on_bad(path, reason)` is called, its samples are left out. sources: others than the plan's; a None
        among them, "nothing now", is given on.
        """
        for source in self.sources if sources is None else sources:
            if source is None:
                yield None
                continue
            missing = [each for first in self.samples_of(source) for each in self.missing(first, settles)]
            if not missing:
                continue
            try:
                image, size = open_source(self.table.source(source.rows[0]), self.spectrum)
            except DataError as error:
                self.quarantine(source.rows[0], str(error))
                if on_bad:
                    on_bad(*self.quarantined[-1])
                continue
            for planned in missing:
                yield planned, make_request(planned, image, size)


def make_request(planned: PlannedSample, image: "Image.Image | np.ndarray", size: tuple[int, int] | None) -> "Request":
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
        control=planned.control,
    )
