"""What a run was, as STORE/runs/<run_id>.json: versions, hardware, model, config, counts, seconds, cost."""

import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from discl.atomic import write_atomic
from discl.errors import StoreError
from discl.pace import Pace
from discl.progress import Event, OnEvent
from discl.store import Store

log = logging.getLogger(__name__)

LIVE_S = 5.0
UNRECORDED = ("imported", "pack")  # run ids of images that no run made
PACKAGES = (
    "discl",
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "triton",
    "onnxruntime",
    "numpy",
    "pillow",
    "pyarrow",
)


def new_run_id() -> str:
    """Sorts by time; two runs of one second differ."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"


def versions() -> dict[str, str]:
    """Installed versions by package name, Python's among them."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": gpus,
    }


@dataclass
class RunRecord:
    """The record of one run, written when it starts and again when it ends, however it ends."""

    folder: Path
    run_id: str
    facts: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    hard: list[str] = field(default_factory=list)  # source ids, kept beside the record as <run_id>.hard.txt
    now: Callable[[], dict[str, Any]] = dict  # further facts, as they are at the moment
    progress: Event = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)

    def live(self, on_event: OnEvent) -> OnEvent:
        """A listener that passes on what it hears, and writes the record anew every LIVE_S seconds."""
        written = time.monotonic()

        def listen(event: Event) -> None:
            nonlocal written
            if event.get("event") == "progress" and event["stage"] == "generate":
                self.progress = event
                if self.pace.due(event["seconds"]):
                    self.pace.note(event["seconds"], self.now().get("unet_evaluations", 0))
            if self.progress and time.monotonic() - written >= LIVE_S:
                written = time.monotonic()
                self.write("running")
            on_event(event)

        return listen

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin

    def ended_by(self, error: BaseException) -> str:
        """The status of a run that this has ended; why it failed is kept in the record."""
        if not isinstance(error, Exception):
            return "stopped"
        self.facts["failure"] = f"{type(error).__name__}: {error}"
        return "failed"

    def end(self, status: str) -> None:
        """The last `write`; where it fails too, it does not hide why the run failed."""
        try:
            self.write(status)
        except OSError as error:
            if status == "done":
                raise
            log.warning("run %s: its record cannot be ended as %r: %s", self.run_id, status, error)

    def write(self, status: str) -> None:
        """status: running, done, stopped or failed."""
        self.facts |= self.now()
        facts = {"run_id": self.run_id, "status": status, **self.facts, "seconds": self.seconds}
        if self.progress:
            facts |= {"progress": self.progress, "pace": self.pace.marks}
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        text = json.dumps(facts, indent=1, ensure_ascii=False, default=str)
        write_atomic(self.folder / "runs" / f"{self.run_id}.json", text.encode())
        kept = self.folder / "runs" / f"{self.run_id}.hard.txt"
        if self.hard and not kept.exists():
            write_atomic(kept, "".join(f"{name}\n" for name in self.hard).encode())


def worked(seconds: Mapping[str, float]) -> float:
    """Worker-seconds of making samples, of a record's `seconds`."""
    return seconds.get("workers", seconds.get("generate", 0.0))


def paid(seconds: Mapping[str, float]) -> float:
    """Worker-seconds in all: those of loading the models as well."""
    return seconds.get("load", 0.0) + worked(seconds)


def earlier_runs(store: str | os.PathLike, unsealed: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The records of the runs that made the store's rows, oldest first; a run without rows is passed over.

    unsealed: rows that no sealed shard has yet. A missing record is logged, but for images that were
    imported. StoreError for one that cannot be read.
    """
    records = []
    made = {row["run_id"] for row in unsealed}
    for batch in Store(store).scan(["run_id"]):
        made.update(batch["run_id"].unique().to_pylist())
    for run_id in sorted(made - {None, *UNRECORDED}):
        file = Path(store) / "runs" / f"{run_id}.json"
        try:
            records.append(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            log.warning("%s: this run's record is gone, so it is unknown which CLIP scored its images", file)
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: cannot be read ({error}); restore it from a copy of the store") from error
    return records
