"""`discl watch`: looks at a store's files again and again, until its run has ended."""

import argparse
import sys
import time
from pathlib import Path

from discl.atomic import write_atomic
from discl.cli.stop import Stop
from discl.store.home import writing_folder
from discl.store.remote import as_folder, is_url
from discl.watching.state import Look, State
from discl.watching.views import as_page, as_prometheus, as_text


def watch(args: argparse.Namespace, stop: Stop) -> None:
    look, terminal = Look(_folder(args.store)), sys.stdout.isatty()
    while True:
        state = look()
        text = as_text(state)
        print(f"\x1b[H\x1b[2J{text}" if terminal and not args.once else text, end="", flush=True)
        _write(args, state)
        if args.once or not state.live:
            return
        time.sleep(max(0.1, args.every))


def _folder(store: str) -> Path:
    """A store behind a URL is watched where it is written: its runs' records arrive there with every shard only."""
    written = writing_folder(store)
    if is_url(store) and (written / "manifest").is_dir():
        return written
    return as_folder(
        store,
        f"watch it on the machine that writes it; to look at a finished one, `discl store merge {store} --into FOLDER`",
    )


def _write(args: argparse.Namespace, state: State) -> None:
    if args.html:
        write_atomic(args.html, as_page(state).encode())
    if args.prometheus:
        write_atomic(args.prometheus, as_prometheus(state).encode())
