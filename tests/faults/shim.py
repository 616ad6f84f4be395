"""The fault library in Python: built once per session, preloaded into a driver process, steered by its forks."""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.cpp")
ROOT = SOURCE.parents[2]
NONE, KILL_BEFORE, KILL_AFTER, KILL_TORN, FAIL_ONCE, FAIL_FROM, SHORT_WRITES = range(7)
NEVER = 1 << 40


def build(folder: Path) -> Path:
    library = folder / "shim.so"
    command = [
        "g++",
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        SOURCE,
        "-o",
        library,
        "-ldl",
    ]
    subprocess.run(list(map(str, command)), check=True)
    return library


def run_preloaded(library: Path, module: str, *arguments: object) -> str:
    """Run `python -m module arguments` with the library in it; returns what it printed. Its errors are ours."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout


class Faults:
    """Inside the driver: plans for this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_count.restype = ctypes.c_long

    def plan(
        self, root: Path | None, at: int = NEVER, kind: int = NONE, error: int = errno.EIO, share: float = 0.5
    ) -> None:
        """At the call number `at` below `root` (None: anywhere, nothing is watched) do `kind`."""
        name = os.fsencode(root) if root else b""
        self._library.fault_plan(name, ctypes.c_long(at), kind, error, ctypes.c_double(share))

    def count(self) -> int:
        """Watched calls since the plan was made."""
        return self._library.fault_count()

    def log(self, path: Path | None) -> None:
        self._library.fault_log(os.fsencode(path) if path else b"")

    def mark(self, number: int) -> None:
        self._library.fault_mark(ctypes.c_long(number))
