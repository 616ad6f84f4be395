"""Counts of long work in, progress events (plain dicts) out; and the two ways to show them on stderr.

An event has `event` (its kind). Kind "progress" carries stage, done, total, rate (per second), eta_s and
seconds, and where they are known accepted (share of the done), usd, and a training's input_wait and bottleneck.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

Event = dict[str, Any]
OnEvent = Callable[[Event], None]
LINE_SECONDS = 10.0


def ignore(event: Event) -> None:
    """The listener of those who do not listen."""


class Meter:
    """Counts finished pieces of one stage and reports each to `on_event`. total: 0 where nobody knows it beforehand."""

    def __init__(self, stage: str, total: int, on_event: OnEvent = ignore, usd_per_hour: float = 0.0):
        self.stage, self.total, self.on_event, self.usd_per_hour = stage, total, on_event, usd_per_hour
        self.done = self.accepted = 0
        self.begin = time.perf_counter()
        self.spent: Callable[[float], float] = lambda seconds: seconds  # of these seconds, those paid for

    def start(self) -> None:
        """Report that the stage begins, where its first piece takes long."""
        self.on_event(self.event(scored=False))

    def advance(self, accepted: bool | None = None, count: int = 1) -> None:
        self.done += count
        self.accepted += count * bool(accepted)
        self.on_event(self.event(scored=accepted is not None))

    def event(self, scored: bool) -> Event:
        seconds = time.perf_counter() - self.begin
        rate = self.done / max(seconds, 1e-9)
        event = {
            "event": "progress",
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "rate": rate,
            "eta_s": (self.total - self.done) / rate if rate and self.total else None,
            "seconds": seconds,
        }
        if scored and self.done:
            event["accepted"] = self.accepted / self.done
        if self.usd_per_hour:
            event["usd"] = self.spent(seconds) / 3600 * self.usd_per_hour
        return event


def describe(event: Event) -> str:
    """One line: `generate 120/400, 3.1/s, 1m 30s left, 46 % accepted, $0.12`."""
    parts = [f"{event['stage']} {event['done']}" + (f"/{event['total']}" if event["total"] else "")]
    if event["done"]:
        parts.append(f"{event['rate']:.3g}/s")
    if event.get("eta_s") is not None:
        parts.append(f"{duration(event['eta_s'])} left")
    if event.get("accepted") is not None:
        parts.append(f"{100 * event['accepted']:.0f} % accepted")
    if event.get("usd") is not None:
        parts.append(dollars(event["usd"]))
    if event.get("bottleneck") is not None:
        parts.append(f"bottleneck {event['bottleneck']}, {100 * event['input_wait']:.0f} % input wait")
    return ", ".join(parts)


def dollars(usd: float) -> str:
    """With cents; parts of them below ten."""
    return f"${usd:,.2f}" if not 0 < usd < 0.1 else f"${usd:.4f}"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {seconds:02d}s" if minutes else f"{seconds}s"


def shower(stream: TextIO | None = None) -> "Lines | Bar":
    """A live line on a terminal, else a line every ten seconds."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Lines(stream)


class Lines:
    """Prints a progress event at most every ten seconds, the start and the end of a stage always."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self.stream, self.clock = stream, clock
        self.last = clock()

    def __call__(self, event: Event) -> None:
        if event.get("event") != "progress":
            return
        if self.clock() - self.last >= LINE_SECONDS or event["done"] in (0, event["total"]):
            self.last = self.clock()
            print(describe(event), file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()


class Bar:
    """Shows the latest progress event on one live line (rich), refreshed four times a second."""

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=30), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=Console(file=stream), refresh_per_second=4)
        self.tasks: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        if event.get("event") != "progress":
            return
        if not self.tasks:
            self.bar.start()
        stage = event["stage"]
        if stage not in self.tasks:
            self.tasks[stage] = self.bar.add_task(stage, total=event["total"] or None)
        self.bar.update(
            self.tasks[stage], completed=event["done"], total=event["total"] or None, description=describe(event)
        )

    def close(self) -> None:
        if self.tasks:
            self.bar.stop()
