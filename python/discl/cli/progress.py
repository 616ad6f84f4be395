"""A stop request and the progress of long work, for the time of a `with` block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from discl.cli.stop import Stop
from discl.progress import Event, OnEvent, shower


@contextmanager
def progress(stop: Stop) -> Iterator[OnEvent]:
    """A listener that shows progress on stderr, under torchrun the first rank's, and raises on a wish to stop."""
    show = shower()

    def on_event(event: Event) -> None:
        if first_rank():
            show(event)
        stop.check(event)

    try:
        yield on_event
    finally:
        show.close()


def first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"
