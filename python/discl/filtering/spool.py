"""A store's index in, one small record per row out, in a temporary file that is read again piece by piece.

The rules look at every row several times. Parquet is decoded once for all of them; what they need is 23 bytes per row,
which lie in a file, so that memory does not grow with the store.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from discl.ahead import ahead
from discl.errors import StoreError
from discl.store import index
from discl.store.columns import classes
from discl.store.keys import Keys

if TYPE_CHECKING:
    from discl.filtering.scores import ShardScores
    from discl.store import Store

RECORD = np.dtype(
    [
        ("score", "<f4"),  # NaN: none
        ("margin", "<f4"),
        ("rank", "<u2"),  # 0: unknown
        ("class", "<i4"),
        ("source", "<i4"),
        ("level", "<u1"),  # place among `Spool.levels` once it is complete, before that the level
        ("tie", "<u4"),  # the key's first 8 digits: which of equal scores comes first
    ]
)
CHUNK = 1 << 18
COLUMNS = [
    "key", "recipe", "status", "shard", "class_id", "class_name", "level", "source_id", "text_score", "margin",
    "attempt_of",
]  # fmt: skip
AHEAD = 2  # batches that a second thread reads, checks and decodes meanwhile
NAMED = 4096  # sources whose names are remembered, for the coverage table


class Spool:
    """Records of all rows of a store, in order, and what their numbers stand for.

    good: bool [rows], status ok, an image in a shard, and of `recipe` (None: there must be only one; StoreError).
    class_names: by code. sources: how many. levels: those of the recipe, sorted; there: bool [sources], whether the
    recipe was asked for an image of it. made: status ok of the recipe, image or not.
    retried: the wishes with several attempts.
    """

    def __init__(self, store: "Store", recipe: str | None, scores: "ShardScores | None" = None):
        self.good = np.zeros(len(store), bool)
        self.recipe, self._any_recipe = recipe, recipe is None
        self.class_names: list[str] = []
        self.source_names: list[str] = []
        self.made = self.without_image = 0
        self._classes: dict[str, int] = {}
        self._sources = Keys()
        self._first_class: list[np.ndarray] = []
        self.retried = Keys()
        self._levels = np.zeros(256, bool)
        self.there = np.zeros(0, bool)
        self._file = tempfile.TemporaryFile(prefix="discl-filter-")  # noqa: SIM115 (closed by __exit__)
        start = 0
        with closing(ahead(_batches(store, scores), AHEAD)) as batches:
            for batch, scored in batches:
                self._records(batch, scored, self._good(start, batch)).tofile(self._file)
                self.retried.add_column(pc.unique(batch["attempt_of"].drop_null()))
                start += len(batch)
        self.source_class = np.concatenate([np.zeros(0, np.int32), *self._first_class])
        self.levels = np.flatnonzero(self._levels)
        if len(self) and not len(self.levels):
            there = sorted(
                {str(name) for batch in store.scan(["recipe"]) for name in batch["recipe"].unique().to_pylist()}
            )
            raise StoreError(f"{store.name} has no image of the recipe {recipe!r}; it has {', '.join(there)}")
        self.sources = len(self._sources)
        self._place = np.zeros(256, np.uint8)
        self._place[self.levels] = np.arange(len(self.levels))

    def __len__(self) -> int:
        return len(self.good)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, their records) in order."""
        self._file.seek(0)
        for start in range(0, len(self), CHUNK):
            rows = slice(start, min(start + CHUNK, len(self)))
            records = np.fromfile(self._file, RECORD, rows.stop - start)
            records["level"] = self._place[records["level"]]
            yield rows, records

    def counts(self, mask: np.ndarray, of: Callable[[np.ndarray], np.ndarray], groups: int) -> np.ndarray:
        """int64 [groups]: the rows of the mask by the group that `of(records)` gives them."""
        total = np.zeros(groups, np.int64)
        for rows, records in self.chunks():
            found = of(records[mask[rows]])
            if len(found):
                low = found.min()  # sources lie one after the other: a chunk has few of millions of groups
                part = np.bincount(found - low)
                total[low : low + len(part)] += part
        return total

    def by_class_level(self, records: np.ndarray) -> np.ndarray:
        return records["class"].astype(np.int64) * len(self.levels) + records["level"]

    def by_source_level(self, records: np.ndarray) -> np.ndarray:
        return records["source"].astype(np.int64) * len(self.levels) + records["level"]

    def _good(self, start: int, batch: pa.RecordBatch) -> np.ndarray:
        """Take note of a batch's good rows; returns which rows are of the recipe, whatever became of them."""
        ok = pc.equal(batch["status"], "ok").fill_null(False).to_numpy(zero_copy_only=False)
        mine = self._of_recipe(batch["recipe"].fill_null(""), ok)
        ok &= mine
        image = batch["shard"].is_valid().to_numpy(zero_copy_only=False)
        self.good[start : start + len(batch)] = ok & image
        self.made += int(ok.sum())
        self.without_image += int((ok & ~image).sum())
        return np.ones(len(batch), bool) if self._any_recipe else mine

    def _of_recipe(self, recipes: pa.Array, ok: np.ndarray) -> np.ndarray:
        coded = recipes.dictionary_encode()
        names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
        if self._any_recipe:
            found = [names[code] for code in np.unique(codes[ok])]
            self.recipe = self.recipe if self.recipe is not None else next(iter(found), None)
            if set(found) - {self.recipe}:
                raise StoreError(
                    f"the store holds images of several recipes, such as {sorted({*found, self.recipe})[:2]}, and no "
                    "selection `default` says which: name one with --recipe"
                )
        return np.array([name == self.recipe for name in names] or [False])[codes]

    def _records(self, batch: pa.RecordBatch, scored: pa.RecordBatch | pa.Table | None, mine: np.ndarray) -> np.ndarray:
        records = np.zeros(len(batch), RECORD)
        judged = batch if scored is None else scored
        records["score"] = _floats(judged["text_score"])
        records["margin"] = _floats(judged["margin"])
        if scored is not None:
            records["rank"] = _numpy(scored["rank"].fill_null(0))
        records["level"] = self._level_of(batch["level"], mine)
        records["class"] = self._class_of(batch)
        records["source"] = self._source_of(batch["source_id"].fill_null(""), records["class"])
        if new := len(self._sources) - len(self.there):
            self.there = np.concatenate([self.there, np.zeros(new, bool)])
        self.there[records["source"][mine]] = True
        digits = pc.utf8_slice_codeunits(batch["key"], 0, 8).cast(pa.binary()).cast(pa.binary(8))
        packed = bytes.fromhex(
            memoryview(digits.buffers()[1])[8 * digits.offset :][: 8 * len(batch)].tobytes().decode()
        )
        records["tie"] = np.frombuffer(packed, ">u4")
        return records

    def _level_of(self, column: pa.Array, mine: np.ndarray) -> np.ndarray:
        levels = column.fill_null(0).to_numpy()
        if len(levels) and (levels.min() < 0 or levels.max() > 100):
            raise StoreError(f"the index holds level {levels.min()}..{levels.max()}; levels are 0 to 100")
        self._levels[np.unique(levels[mine])] = True
        return levels

    def _class_of(self, batch: pa.RecordBatch) -> np.ndarray:
        coded = classes(batch).dictionary_encode()
        for word in coded.dictionary.to_pylist():
            if word not in self._classes:
                self._classes[word] = len(self.class_names)
                self.class_names.append(word)
        numbers = np.array([self._classes[word] for word in coded.dictionary.to_pylist()], np.int32)
        return numbers[coded.indices.to_numpy()]

    def _source_of(self, column: pa.Array, classes: np.ndarray) -> np.ndarray:
        coded = column.dictionary_encode()
        words = coded.dictionary.to_pylist()
        hashed = [blake2b(word.encode(), digest_size=16).hexdigest() for word in words]
        before = len(self._sources)
        self._sources.add_column(pa.array(hashed, pa.string()))
        codes = coded.indices.to_numpy()
        numbers = self._sources.numbers(hashed)
        fresh = np.flatnonzero(numbers >= before)
        if len(fresh):
            first = np.full(len(words), len(codes))
            np.minimum.at(first, codes, np.arange(len(codes)))
            order = fresh[np.argsort(numbers[fresh])]
            self._first_class.append(classes[first[order]])
            self.source_names += [words[at] for at in order[: max(0, NAMED - len(self.source_names))]]
        return numbers[codes] if len(codes) else np.empty(0, np.int32)


def _batches(store: "Store", scores: "ShardScores | None") -> Iterator[tuple[pa.RecordBatch, pa.Table | None]]:
    for shard in store.shards:
        scored, start = scores.of(shard) if scores else None, 0
        for batch in index.scan(store.path, [shard], COLUMNS, None, CHUNK):
            part = scored.slice(start, len(batch)).combine_chunks() if scored is not None else None
            start += len(batch)
            yield batch, part


def _floats(column: pa.Array) -> np.ndarray:
    return _numpy(column.cast(pa.float32()).fill_null(float("nan")))


def _numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
