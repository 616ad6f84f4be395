"""`discl export onnx|aoti|tensorrt` and their arguments."""

import argparse
from collections.abc import Callable

from discl.cli import exports

KINDS = {
    "onnx": (exports.onnx, "ONNX files, for ONNX Runtime and other tools"),
    "aoti": (exports.aoti, "torch's ahead-of-time compiled packages, for machines like this one"),
    "tensorrt": (exports.tensorrt, "ONNX files and TensorRT engines for this GPU; again to continue"),
}


def add_export_commands(known, add: Callable) -> None:
    for name, (run, text) in KINDS.items():
        command = add(known, name, run, text)
        command.add_argument("model", metavar="MODEL", help="folder, hub:id or .safetensors checkpoint")
        command.add_argument("out", metavar="OUT", help="the folder; an earlier export there is replaced")
        command.add_argument("--clip", metavar="NAME", help="also the towers of this scorer, as [score] clip names it")
        command.add_argument(
            "--size", metavar="WIDTHxHEIGHT", type=size, action="append", default=[], dest="sizes",
            help="of the images to be made (default: the model's own); may be given several times",
        )  # fmt: skip
        command.add_argument("--dtype", default="float32", help="float32 (default), float16 or, for aoti, bfloat16")
        command.add_argument(
            "--lora", metavar="FILE[:WEIGHT]", action="append", default=[], dest="loras",
            help="merged into the model, as [model] loras; may be given several times",
        )  # fmt: skip
        command.add_argument(
            "--embedding", metavar="FILE[:WORD]", action="append", default=[], dest="embeddings",
            help="a textual inversion, as [model] embeddings; may be given several times",
        )  # fmt: skip
        if name == "tensorrt":
            command.add_argument(
                "--slots", type=int, default=16, help="of the runs to come, [engine] slots (default: 16)"
            )
            command.add_argument("--onnx", metavar="DIR", help="take the graphs of this ONNX export, quantised or not")
        if name != "onnx":
            command.add_argument("--device", default="auto", help="what it is for (default: auto)")


def size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: give WIDTHxHEIGHT in pixels, such as 512x512")
    return int(width), int(height)
