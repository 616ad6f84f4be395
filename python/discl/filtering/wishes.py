"""Attempts at the same image in, the one that stands for each wish out."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from discl.attempts import Attempts
from discl.filtering.spool import CHUNK, Spool
from discl.store.keys import Keys

if TYPE_CHECKING:
    from discl.store import Store


def one_of_each_wish(store: "Store", spool: Spool, alive: np.ndarray, attempts: Attempts) -> bool:
    """Keep, in place, of every wish the attempt that `Attempts.best` names; False where every wish has one attempt.

    Only wishes with several attempts are held in memory.
    """
    if not spool.retried:
        return False
    rows, wish, retry = _several(store, alive, spool.retried)
    score = np.empty(len(rows), np.float32)
    for place, records in spool.chunks():
        inside = slice(*np.searchsorted(rows, [place.start, place.stop]))
        score[inside] = records["score"][rows[inside] - place.start]
    late = retry >= attempts.best_of
    order = np.lexsort((retry, np.where(late, 0, -np.nan_to_num(score)), late, wish))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(wish[order]) > 0
    alive[rows[order[~first]]] = False
    return True


def _several(store: "Store", alive: np.ndarray, wishes: Keys) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, wish, retry) of every living row whose wish has several attempts; rows rise."""
    parts: list[np.ndarray] = []
    start = 0
    for batch in store.scan(["key", "attempt_of", "retry"], rows=CHUNK):
        number = wishes.numbers(pc.coalesce(batch["attempt_of"], batch["key"]))
        at = np.flatnonzero((number >= 0) & alive[start : start + len(batch)])
        retry = batch["retry"].fill_null(0).to_numpy()
        parts.append(np.stack([start + at, number[at], retry[at]]))
        start += len(batch)
    return tuple(np.concatenate(parts, 1))
