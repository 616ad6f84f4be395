"""Rows of the data table in, distinct sources out: each file is read once, by several threads, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

from discl.data.table import DataTable
from discl.recipe import source_digests

READERS = 8  # files whose bytes are in memory at a time: hashing lets go of the GIL
AT_ONCE = 64  # rows that a reader takes at a time: handing over one costs as much as reading a small file
AHEAD = 2 * READERS


@dataclass(frozen=True, slots=True)
class Source:
    """Distinct image bytes of one class. `rows` are the table's rows that hold them, the first is opened."""

    rows: tuple[int, ...]
    digest: str
    noise_seeds: tuple[int, ...]


def read_sources(
    table: DataTable,
    rows: Iterable[int],
    seeds: tuple[int, ...],
    clash: Callable[[int, int], bool],
    on_bad: Callable[[int, str], None],
) -> list[Source]:
    """The sources of `rows` in the order of their first row; equal bytes of a class are one source.

    clash(row, other): whether two classes would ask for the same image of the same bytes; the later row is bad then.
    on_bad(row, reason): for those and for files that cannot be read.
    """
    merged: dict[tuple[str, int], Source] = {}
    same_bytes: dict[str, list[int]] = {}  # digest -> the first row of every class that has these bytes
    for row, found in _in_order(partial(_read, table, seeds), rows):
        if isinstance(found, str):
            on_bad(row, found)
            continue
        label = int(table.labels[row])
        known = merged.get((found.digest, label))
        if known:
            merged[found.digest, label] = Source((*known.rows, row), found.digest, found.noise_seeds)
            continue
        firsts = same_bytes.setdefault(found.digest, [])
        other = next((first for first in firsts if clash(row, first)), None)
        if other is not None:
            on_bad(row, f"the same bytes belong to another class as {table.ids[other]}, with the same prompt")
            continue
        firsts.append(row)
        merged[found.digest, label] = found
    return list(merged.values())


def _read(table: DataTable, seeds: tuple[int, ...], row: int) -> Source | str:
    """The row's own source, or why its file cannot be read."""
    try:
        with open(table.source(row), "rb") as file:
            return Source((row,), *source_digests(file.read(), seeds))
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except ValueError as error:  # a name with a NUL byte, which no file has
        return f"cannot be read: {error}"


def _in_order(read: Callable[[int], Source | str], rows: Iterable[int]) -> Iterator[tuple[int, Source | str]]:
    """(row, read(row)) for every row; at most AHEAD times AT_ONCE are read ahead of the caller."""
    left = map(int, rows)
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[list[int], Future]] = deque()
        try:
            while chunk := list(islice(left, AT_ONCE)):
                waiting.append((chunk, pool.submit(lambda part: list(map(read, part)), chunk)))
                if len(waiting) >= AHEAD:
                    first, result = waiting.popleft()
                    yield from zip(first, result.result(), strict=True)
            while waiting:
                first, result = waiting.popleft()
                yield from zip(first, result.result(), strict=True)
        finally:
            for _, result in waiting:
                result.cancel()
