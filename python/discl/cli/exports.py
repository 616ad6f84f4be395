"""One short function per `discl export` command."""

import argparse
import sys
from typing import Any

from discl.cli.quiet import quiet
from discl.cli.stop import Stop


def onnx(args: argparse.Namespace, stop: Stop) -> None:
    _export("onnx", args, stop)


def aoti(args: argparse.Namespace, stop: Stop) -> None:
    _export("aoti", args, stop, device=args.device)


def tensorrt(args: argparse.Namespace, stop: Stop) -> None:
    _export("tensorrt", args, stop, device=args.device, slots=args.slots, onnx=args.onnx)


def _export(kind: str, args: argparse.Namespace, stop: Stop, **options: Any) -> None:
    from discl.engine.export.write import export_model

    quiet(args.verbose)

    def on_event(event: dict) -> None:
        stop.check(event)
        if event["event"] == "export":
            print(f"{event['part']} ({event['done']} of {event['of']})", file=sys.stderr, flush=True)
        elif event["step"] == event["steps"]:
            print(f"{event['part']}: {event['phase']}", file=sys.stderr, flush=True)

    export_model(
        kind,
        args.model,
        args.out,
        args.clip,
        sizes=args.sizes,
        dtype=args.dtype,
        loras=args.loras,
        embeddings=args.embeddings,
        on_event=on_event,
        **options,
    )
    print(args.out)
