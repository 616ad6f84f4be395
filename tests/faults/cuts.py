"""Driver, run with the shim preloaded: the workload once, then power cuts during it, each with a restart and checks.

python -m tests.faults.cuts FOLDER COUNT SEED
"""

import os
import random
import shutil
import sys
import traceback
from pathlib import Path

from tests.faults import power, shim, workload


def logged(folder: Path) -> list[power.Call]:
    """The calls of one undisturbed run; what it says is durable is a call "mark" of PARTS' number * 1000 + value.

    In a fork, since the lease of a living process is respected.
    """
    child = os.fork()
    if child == 0:
        faults = shim.Faults()
        faults.log(folder / "log")
        faults.plan(folder / "run")
        workload.run(folder / "run", lambda part, value: faults.mark(1000 * workload.PARTS.index(part) + value))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return list(power.calls(folder / "log"))


def cut(calls: list[power.Call], at: int, rng: random.Random, folder: Path) -> tuple[Path, dict[str, int]]:
    """The folder after a power cut behind `at` calls, and what was durable by then."""
    disk, durable = power.Disk(), dict.fromkeys(workload.PARTS, 0)
    for call in calls[:at]:
        if call.name == "mark":
            part, value = divmod(call.offset, 1000)
            durable[workload.PARTS[part]] = value
        else:
            disk.apply(call)
    root = folder / f"cut-{at}"
    root.mkdir()
    power.rebuild(disk.left(rng), folder / "run", root)
    return root, durable


def main() -> None:
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    calls, rng = logged(folder), random.Random(seed)
    for number in range(count):
        at = rng.randint(0, len(calls))
        root, durable = cut(calls, at, rng, folder)
        try:
            workload.recovered(root, durable)
            workload.run(root, lambda part, value: None)
            workload.finished(root)
        except BaseException as error:
            after = calls[at - 1] if at else None
            where = (
                f"cut {number} of seed {seed}, behind call {at} of {len(calls)} ({after and (after.name, after.paths)})"
            )
            raise SystemExit(f"{where}, {durable}: {traceback.format_exc()}") from error
        shutil.rmtree(root)
    print(f"{count} power cuts in {len(calls)} calls")


if __name__ == "__main__":
    main()
