"""STORE/runs, manifest and indexes in, `State` out. Works while the run goes on, wherever the files are seen."""

import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discl.config.thresholds import Thresholds
from discl.errors import StoreError
from discl.store import manifest
from discl.store.index import read_index
from discl.store.manifest import Shard

SILENT_S = 60.0  # a running run writes its record every few seconds
LAST_ERRORS = 5
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class State:
    """status: running, silent (running, but it has not written for SILENT_S), done, stopped, failed or none.

    levels: level -> {"made", "ok", "accepted"} over the store's sealed rows. progress: done, total, rate (per second),
    eta_s, usd. errors: {"worker", "host", "reason", "time"}, the last ones. failure: what ended a failed run. bad: the
    last inputs that could not be used, {"path", "reason"}. bytes: of all sealed files.
    """

    store: str
    run_id: str
    status: str
    age_s: float
    samples: int
    bytes: int
    shards: int
    levels: dict[int, Counter[str]]
    progress: dict[str, Any] = field(default_factory=dict)
    workers: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    quarantined: int = 0
    failure: str = ""
    bad: list[dict[str, str]] = field(default_factory=list)

    @property
    def live(self) -> bool:
        return self.status == "running"

    @property
    def alive(self) -> int:
        """Workers; a run without Ray is one."""
        working = sum(worker["state"] == "working" for worker in self.workers)
        return working if self.workers else int(self.live)


class Look:
    """Looks again and again: an index is read once, since a sealed shard does not change.

    A record that changes between two looks is young, whatever the clocks of this machine and the file's say.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._seen: tuple[str, float] | None = None
        self._changed: float | None = None  # when that was seen last, by this machine's monotonic clock
        self._levels: dict[str, dict[int, Counter[str]]] = {}

    def __call__(self) -> State:
        """StoreError for what is no store."""
        shards = manifest.sealed_shards(self.store)
        record, written = _latest(self.store)
        age = self._age(record.get("run_id", ""), written)
        score = (record.get("config") or {}).get("score")
        thresholds = Thresholds.model_validate(score["threshold"]) if score else None
        parts = [self._of(shard, thresholds) for shard in shards]
        levels = {level: Counter[str]() for part in parts for level in sorted(part)}
        for part in parts:
            for level, counts in part.items():
                levels[level].update(counts)
        status = record.get("status", "none")
        return State(
            store=str(self.store),
            run_id=record.get("run_id", ""),
            status="silent" if status == "running" and age > SILENT_S else status,
            age_s=age,
            samples=sum(shard.rows for shard in shards),
            bytes=sum(entry["bytes"] for shard in shards for entry in shard.files.values()),
            shards=len(shards),
            levels=dict(sorted(levels.items())),
            progress=record.get("progress") or {},
            workers=record.get("workers") or [],
            errors=(record.get("errors") or [])[-LAST_ERRORS:],
            quarantined=(record.get("counts") or {}).get("quarantined", 0),
            failure=record.get("failure", ""),
            bad=_last_bad(self.store / "quarantine.jsonl"),
        )

    def _age(self, run: str, written: float) -> float:
        """Seconds since the record was written."""
        before, self._seen = self._seen, (run, written)
        if before is not None and self._seen > before:
            self._changed = time.monotonic()
        if self._changed is not None:
            return time.monotonic() - self._changed
        return max(0.0, time.time() - written) if run else 0.0

    def _of(self, shard: Shard, thresholds: Thresholds | None) -> dict[int, Counter[str]]:
        key = f"{shard.digest} {thresholds}"
        if key not in self._levels:
            levels: dict[int, Counter[str]] = {}
            columns = ["level", "status", "class_name", "text_score"]
            for row in read_index(self.store, shard).select(columns).to_pylist():
                counts = levels.setdefault(row["level"], Counter())
                ok = row["status"] == "ok"
                least = thresholds.of(row["class_name"], row["level"]) if thresholds else None
                passed = ok and (least is None or (row["text_score"] is not None and row["text_score"] >= least))
                counts.update(made=1, ok=int(ok), accepted=int(passed))
            self._levels[key] = levels
        return self._levels[key]


def look(store: Path) -> State:
    return Look(Path(store))()


def _last_bad(file: Path) -> list[dict[str, str]]:
    """The last lines that are whole."""
    if not file.is_file():
        return []
    found = []
    with open(file, "rb") as lines:
        lines.seek(max(0, file.stat().st_size - TAIL_BYTES))
        for line in lines.read().decode("utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                found.append({"path": str(entry["path"]), "reason": str(entry["reason"])})
    return found[-LAST_ERRORS:]


def _latest(store: Path) -> tuple[dict[str, Any], float]:
    """The youngest run's record and when it was written, by its file's clock; empty where there is none."""
    files = sorted((store / "runs").glob("*.json"))
    if not files:
        return {}, 0.0
    try:
        return json.loads(files[-1].read_text(encoding="utf-8")), files[-1].stat().st_mtime
    except (OSError, ValueError) as error:
        raise StoreError(f"{files[-1]}: cannot be read ({error}); restore it from a copy of the store") from error
