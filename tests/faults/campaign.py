"""Driver, run with the shim preloaded: kills and failing calls, each in a fork, each followed by a restart and checks.

    python -m tests.faults.campaign FOLDER kills|failures|short COUNT SEED     (COUNT 0: every call, in every way)

Prints one line: how many faults there were, and of which kinds.
"""

import errno
import mmap
import os
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

from discl.errors import DisclError
from tests.faults import shim, workload

FAULTS = shim.Faults()
KILLS = {"before": shim.KILL_BEFORE, "after": shim.KILL_AFTER, "torn": shim.KILL_TORN}
FAILURES = {
    "EIO once": (shim.FAIL_ONCE, errno.EIO),
    "disk full from there": (shim.FAIL_FROM, errno.ENOSPC),
    "read-only from there": (shim.FAIL_FROM, errno.EROFS),
}
DONE, REFUSED, BROKEN = 0, 3, 1
LONGEST_S = 60


class Told:
    """What the workload says is durable, in memory that survives its death."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, len(workload.PARTS))

    def __call__(self, part: str, value: int) -> None:
        at = workload.PARTS.index(part)
        self._memory[at] = max(self._memory[at], value)

    def now(self) -> dict[str, int]:
        return {part: self._memory[at] for at, part in enumerate(workload.PARTS)}


def forked(root: Path, told: Told, *plan: object) -> int:
    """Run the workload in a fork under a plan; returns the fork's exit status, -9 for a kill."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(LONGEST_S)
    code = BROKEN
    try:
        FAULTS.plan(root, *plan)
        workload.run(root, told)
        code = DONE
    except DisclError:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def restarted(root: Path, told: Told) -> None:
    workload.recovered(root, told.now())
    workload.run(root, told)
    workload.finished(root)


def calls(folder: Path) -> int:
    """How many calls change files in one undisturbed run."""
    FAULTS.plan(folder / "whole")
    workload.run(folder / "whole", Told())
    count = FAULTS.count()
    FAULTS.plan(None)
    workload.finished(folder / "whole")
    return count


def kill(root: Path, at: int, way: str, rng: random.Random) -> None:
    told = Told()
    status = forked(root, told, at, KILLS[way], 0, rng.random())
    assert status in (-signal.SIGKILL, DONE), f"ended with {status}"
    if rng.random() < 0.5:  # and once more while it recovers
        status = forked(root, told, rng.randrange(40), KILLS[rng.choice(list(KILLS))], 0, rng.random())
        assert status in (-signal.SIGKILL, DONE), f"the second ended with {status}"
    restarted(root, told)


def fail(root: Path, at: int, way: str, rng: random.Random) -> None:
    told = Told()
    kind, error = FAILURES[way]
    status = forked(root, told, at, kind, error)
    assert status in (DONE, REFUSED), f"ended with {status}"
    restarted(root, told)


def short(root: Path, at: int, way: str, rng: random.Random) -> None:
    """Every write is cut short, as the system may: it is gone on with."""
    told = Told()
    assert forked(root, told, shim.NEVER, shim.SHORT_WRITES) == DONE
    workload.finished(root)


CAMPAIGNS = {"kills": (kill, KILLS), "failures": (fail, FAILURES), "short": (short, ["always"])}


def main() -> None:
    folder, what, count, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    fault, ways = CAMPAIGNS[what]
    total = calls(folder)
    chosen = [(at, way) for at in range(total) for way in ways]
    rng = random.Random(seed)
    if count:
        chosen = rng.sample(chosen, count)
    for at, way in chosen:
        root = folder / f"{at}-{way.replace(' ', '-')}"
        try:
            fault(root, at, way, rng)
        except BaseException as error:
            raise SystemExit(f"{what}, seed {seed}: call {at} of {total}, {way}: {traceback.format_exc()}") from error
        shutil.rmtree(root)
    print(f"{len(chosen)} of {what} at {total} calls: {dict(Counter(way for _, way in chosen))}")


if __name__ == "__main__":
    main()
