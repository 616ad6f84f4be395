"""Command line in, exit code out: 0 done, 1 the run failed, 2 the user must change something, 128+N signal N.

Errors are one line on stderr; results are on stdout. Only this package installs signal handlers.
"""

import errno
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

from discl.cli.parser import make_parser
from discl.cli.stop import Interrupted, Stop
from discl.disk_space import remedy
from discl.errors import DisclError

__all__ = ["main"]

# What the operating system refuses and only the user can change.
USERS_ERRORS = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. `argv` defaults to the process's arguments."""
    args = make_parser().parse_args(argv)
    _log_to_stderr(args.verbose)
    try:
        with Stop() as stop:
            code = args.command(args, stop) or 0
            sys.stdout.flush()
            return code
    except DisclError as error:
        return _say(error, error.exit_code)
    except Interrupted as stopped:
        return _say(f"stopped by {stopped}; run the same command again to continue", stopped.exit_code)
    except BrokenPipeError:  # the reader of stdout has gone: what is still buffered goes nowhere, quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _say(_describe(error), 2) if error.errno in USERS_ERRORS else _unexpected(error, args.verbose)
    except Exception as error:
        return _unexpected(error, args.verbose)


class OneLine(logging.Formatter):
    """The message alone: tracebacks are for -v."""

    def format(self, record: logging.LogRecord) -> str:
        return f"discl: {' '.join(record.getMessage().split())}"


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("discl: %(message)s") if verbose else OneLine())
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbose else logging.WARNING)


def _say(message: object, code: int) -> int:
    print("discl:", " ".join(str(message).split()), file=sys.stderr)
    return code


def _describe(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    advice = remedy(error, error.filename) if isinstance(error.filename, str) else ""
    advice = advice or "; check the path, its permissions and the free space"
    return f"{place}{error.strerror}{advice}"


def _unexpected(error: Exception, verbose: bool) -> int:
    """A defect of ours: the traceback goes to stderr with -v, else into a file that the line names."""
    if verbose:
        traceback.print_exception(error)
        return _say(f"failed: {type(error).__name__}: {error}", 1)
    with tempfile.NamedTemporaryFile("w", prefix="discl-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    return _say(f"failed: {type(error).__name__}: {error} (traceback in {log.name})", 1)
