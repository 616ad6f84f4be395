"""Early rejection replayed: who is given up, when, after how many looks and who is accepted, from a recorded trace.

Random weights make images that no CLIP accepts, so a benchmark of speed takes its verdicts from the demo's trained
model (`bench_rejection` records them). A look still does all that a judge's look does on the device.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.timing import RESULTS
from benchmarks.workload import LEVELS
from discl import Engine, Request
from discl.engine.rejection import Tracer
from discl.engine.rejection.decoder import CELL, SmallDecoder
from discl.engine.work import Work
from discl.errors import DisclError

TRACE = RESULTS / "rejection-replay.npz"


class Replay(Tracer):
    """Every request plays a recorded sample of its level, drawn without replacement while there are some.

    accepted: by (level, noise seed), whether the sample's image would be accepted if it ran to its end.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request], file: Path):
        if not file.exists():
            raise DisclError(f"{file} is missing: python -m benchmarks rejection records it")
        cell = min(CELL, engine.model.multiple)
        decoder = SmallDecoder(engine.model.latent_channels, cell).requires_grad_(False).eval()
        super().__init__(decoder, sorted({request.prompt for request in requests}))
        with np.load(file, allow_pickle=False) as stored:
            self._trace = {name: stored[name] for name in stored.files}
        self._row = _cast(requests, self._trace["level"])
        self.accepted = {wish: bool(self._trace["accepted"][row]) for wish, row in self._row.items()}

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        rows = {row for wish, row in self._row.items() if wish[0] == level}
        return tuple(sorted(set().union(*(self._steps(row, steps) for row in rows))))

    def wants(self, works: Sequence[Work], steps: Sequence[int]) -> list[bool]:
        return [done in self._recorded(work) for work, done in zip(works, steps, strict=True)]

    def verdicts(self, works: Sequence[Work], steps: Sequence[int], features: np.ndarray) -> list[str]:
        return list(map(self._verdict, works, steps))

    def accepts(self, request: Request) -> bool:
        """Whether the recorded sample's image is accepted once it is made."""
        return self.accepted[_wish(request)]

    def _verdict(self, work: Work, steps: int) -> str:
        gone = self._trace["rejected"][self._row[_wish(work.request)]]
        return "as recorded" if gone and steps == max(self._recorded(work)) else ""

    def _recorded(self, work: Work) -> set[int]:
        return self._steps(self._row[_wish(work.request)], work.trajectory.steps)

    def _steps(self, row: int, steps: int) -> set[int]:
        """Executed steps, of `steps`, after which the recorded sample was looked at."""
        shares = self._trace["looks"][row]
        return {min(max(1, round(share * steps)), steps - 1) for share in shares[~np.isnan(shares)].tolist()} - {0}


def made_up(file: Path) -> Path:
    """A trace that proves a script and nothing else: of every level one sample is kept and one is given up half-way."""
    columns = {
        "level": np.repeat(np.array(LEVELS, np.int16), 2),
        "accepted": np.tile([True, False], len(LEVELS)),
        "rejected": np.tile([False, True], len(LEVELS)),
        "looks": np.tile(np.float32([[0.3, np.nan], [0.3, 0.5]]), (len(LEVELS), 1)),
    }
    np.savez_compressed(file, **columns)
    return file


def _cast(requests: Sequence[Request], levels: np.ndarray) -> dict[tuple[int, int], int]:
    """(level, noise seed) -> row of the trace."""
    random, cast = np.random.default_rng(0), {}
    for level in sorted({request.level for request in requests}):
        wishes = sorted({_wish(request) for request in requests if request.level == level})
        rows = random.permutation(np.flatnonzero(levels == level))
        cast |= dict(zip(wishes, np.resize(rows, len(wishes)).tolist(), strict=True))
    return cast


def _wish(request: Request) -> tuple[int, int]:
    return request.level, request.noise_seed
