"""`discl store ...`: one short function per command, (arguments, stop) -> exit code or None."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from discl.cli.progress import progress
from discl.cli.stop import Stop
from discl.errors import StoreError


def verify(args: argparse.Namespace, stop: Stop) -> int:
    from discl.store import verify

    for path in args.stores if args.repair else ():
        _repair(path, stop)
    problems = [(path, problem) for path in args.stores for problem in verify(path)]
    for path, problem in problems:
        print(f"{path}: {problem}")
    return 1 if problems else 0


def _repair(path: str, stop: Stop) -> None:
    from discl.store.repair import repair

    with progress(stop) as on_event:
        done = repair(path, on_event=on_event)
    if done.shards:
        gone = "nobody knows how many" if done.gone < 0 else str(done.gone)
        print(
            f"{path}: {done.shards} damaged shards replaced; {done.kept} samples kept, {gone} gone: "
            "`discl generate` makes them again",
            file=sys.stderr,
        )


def export(args: argparse.Namespace, stop: Stop) -> None:
    from discl.store.export import export

    with progress(stop) as on_event:
        count = export(args.store, args.out, args.selection, args.format, round(args.shard_mb * 1e6), on_event)
    print(f"{count} images", file=sys.stderr)
    print(args.out)


def merge(args: argparse.Namespace, stop: Stop) -> None:
    from discl.store.merge import merge

    with progress(stop) as on_event:
        store = merge(args.stores, args.into, round(args.shard_mb * 1e6), on_event)
    print(f"{len(store)} samples", file=sys.stderr)
    print(args.into)


def import_(args: argparse.Namespace, stop: Stop) -> None:
    from discl.store.import_ import import_

    with progress(stop) as on_event:
        store = import_(args.source, args.store, args.kind, round(args.shard_mb * 1e6), on_event)
    print(f"{len(store)} samples", file=sys.stderr)
    print(args.store)


def reshard(args: argparse.Namespace, stop: Stop) -> None:
    from discl.store.resize import reshard

    with progress(stop) as on_event:
        print(f"{reshard(args.store, round(args.shard_mb * 1e6), on_event)} shards", file=sys.stderr)


def compact(args: argparse.Namespace, stop: Stop) -> None:
    from discl.store.resize import compact

    with progress(stop) as on_event:
        print(f"{compact(args.store, round(args.shard_mb * 1e6), on_event)} shards", file=sys.stderr)


def forget(args: argparse.Namespace, stop: Stop) -> None:
    from discl.store.forget import forget

    sources, doubtful = _sources(args.store, args.sources)
    with progress(stop) as on_event:
        count = forget(args.store, sources, round(args.shard_mb * 1e6), on_event, doubtful)
    print(f"{count} samples of {len(sources) + len(doubtful)} sources are gone", file=sys.stderr)


def _sources(store: str, given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Source ids as they are, and those in files, one per line; then the words that are neither, which may be misspelt,
    or ids of samples that are not sealed or that a killed call has removed."""
    from discl.store.forget import known

    given = list(given)
    ids = known(store, given)
    others = [word for word in given if word not in ids]
    files = [word for word in others if Path(word).is_file()]
    listed = [line for file in files for line in _lines(Path(file)) if line]
    return [*ids, *listed], [word for word in others if word not in files]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise StoreError(f"--source {file}: is not UTF-8 text with one source id per line ({error.reason})") from error
