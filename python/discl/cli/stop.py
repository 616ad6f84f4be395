"""SIGINT and SIGTERM in, one `Interrupted` out, at a moment when the store can be sealed.

Before the first progress event the signal raises at once. After it, the next event raises: that is between
two appended samples. If none comes within GRACE_S seconds, an alarm raises wherever the program is.
"""

import signal
from types import FrameType

from discl.progress import Event

GRACE_S = 5.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A stop request. Not an Exception: nothing but the command line may catch it."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Stop:
    """Handlers for the time of a `with` block; further signals are ignored once one has come."""

    def __init__(self):
        self.signum: int | None = None
        self.raised = self.has_events = False

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._asked) for number in SIGNALS}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
        return self

    def __exit__(self, *error) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, event: Event) -> None:
        """Called with every event of long work: the place where a stop request raises."""
        self.has_events = True
        self._raise()

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            return
        self.signum = signum
        if not self.has_events:
            self._raise()
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def _overdue(self, signum: int, frame: FrameType | None) -> None:
        self._raise()

    def _raise(self) -> None:
        if self.signum is not None and not self.raised:
            self.raised = True
            raise Interrupted(self.signum)
