"""`discl ...` in processes of its own, forked from a server that has the heavy imports behind it."""

import multiprocessing
import os
import resource
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["discl.cli", "discl.generation", "discl.engine", "diffusers", "transformers"])


def start(argv: list, errors: Path, file_bytes: int | None = None) -> BaseProcess:
    """Start `discl argv`; stderr goes to `errors`; no file may grow beyond `file_bytes`."""
    process = SERVER.Process(target=_main, args=([str(arg) for arg in argv], str(errors), file_bytes))
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 120) -> int:
    """Wait for the process; returns its exit code (negative: killed by that signal)."""
    process.join(seconds)
    assert process.exitcode is not None, f"still running after {seconds} s"
    return process.exitcode


def _main(argv: list[str], errors: str, file_bytes: int | None) -> None:
    import torch

    from discl.cli import main

    torch.set_num_threads(1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
    sys.exit(main(argv))
