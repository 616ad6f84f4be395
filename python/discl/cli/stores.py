"""`discl store ...`: one short function per command, (arguments, stop) -> exit code or None."""

import argparse
import sys

from discl.cli.progress import progress
from discl.cli.stop import Stop


def verify(args: argparse.Namespace, stop: Stop) -> int:
    from discl.store import verify

    problems = [(path, problem) for path in args.stores for problem in verify(path)]
    for path, problem in problems:
        print(f"{path}: {problem}")
    return 1 if problems else 0


def export(args: argparse.Namespace, stop: Stop) -> None:
    from discl.store.export import export

    with progress(stop) as on_event:
        count = export(args.store, args.out, args.selection, args.format, round(args.shard_mb * 1e6), on_event)
    print(f"{count} images", file=sys.stderr)
    print(args.out)
