"""`discl watch`: looks at a store's files again and again, until its run has ended."""

import argparse
import sys
import time

from discl.atomic import write_atomic
from discl.cli.stop import Stop
from discl.store.remote import as_folder
from discl.watching.state import Look, State
from discl.watching.views import as_page, as_prometheus, as_text


def watch(args: argparse.Namespace, stop: Stop) -> None:
    look, terminal = Look(as_folder(args.store)), sys.stdout.isatty()
    while True:
        state = look()
        text = as_text(state)
        print(f"\x1b[H\x1b[2J{text}" if terminal and not args.once else text, end="", flush=True)
        _write(args, state)
        if args.once or not state.live:
            return
        time.sleep(max(0.1, args.every))


def _write(args: argparse.Namespace, state: State) -> None:
    if args.html:
        write_atomic(args.html, as_page(state).encode())
    if args.prometheus:
        write_atomic(args.prometheus, as_prometheus(state).encode())
