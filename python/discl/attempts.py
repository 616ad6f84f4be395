"""How often one wish is tried: `best_of` candidates at once, then up to `retries` more until one is accepted.

A wish is one (source, level, seed); its attempts are numbered by `retry` from 0. Which attempts exist in the end is a
function of their scores alone, so kills, restarts, order and slots leave the same store (the rule is paper 1.7's, which
has one candidate and five retries).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attempts:
    """best_of: attempts that every wish gets. retries: how many more it may get, each after the one before."""

    best_of: int = 1
    retries: int = 0

    @property
    def most(self) -> int:
        return self.best_of + self.retries

    def due(self, settles: Callable[[int], bool | None]) -> list[int]:
        """The attempts to make now.

        settles(retry): None for one that is not made, else whether it ends the wish: it was accepted, or failed in a
        way that another attempt would fail as well.
        """
        first = [settles(retry) for retry in range(self.best_of)]
        missing = [retry for retry, known in enumerate(first) if known is None]
        if missing or any(first):
            return missing
        for retry in range(self.best_of, self.most):
            known = settles(retry)
            if known is not False:
                return [retry] if known is None else []
        return []

    def best(self, accepted: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """The accepted row (retry, text_score) that stands for its wish.

        It is the highest text score among the `best_of`, the first of equals; without one of these, the first retry.
        Retries of a run with other settings count too: what was accepted is not lost.
        """
        return min(accepted, key=self._rank)

    def _rank(self, row: dict[str, Any]) -> tuple[bool, float, int]:
        retry = row["retry"] or 0
        late = retry >= self.best_of
        return late, 0.0 if late else -(row["text_score"] or 0.0), retry
