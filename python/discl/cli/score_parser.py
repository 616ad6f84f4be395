"""The arguments of `discl score`."""

import argparse
from collections.abc import Callable

from discl.cli import scores
from discl.cli.distribution import add_cluster


def add_score_command(known, add: Callable[..., argparse.ArgumentParser]) -> None:
    """add(known, name, run, text): makes one command."""
    command = add(known, "score", scores.score, "score images that are there, from kept embeddings where possible")
    command.add_argument("target", metavar="STORE|FOLDER|TAR", help="what discl made, or images from elsewhere")
    command.add_argument("--clip", metavar="NAME", help="as [score] clip (default: the store's own)")
    command.add_argument("--prompt", metavar="TEXT", help="with {class} (default: the store's own)")
    command.add_argument("--negative", metavar="TEXT", action="append", default=[], help="also the likeness to this")
    command.add_argument("--name", metavar="NAME", help="of scores/NAME/ (default: the CLIP's name)")
    command.add_argument("--pixels", action="store_true", help="decode images although embeddings are kept")
    command.add_argument(
        "--data", metavar="CONFIG.toml", help="real images: likeness to source, class centroid and evaluation images"
    )
    command.add_argument("--classifier", metavar="RUN", help="a training's folder: confidence in the own class")
    command.add_argument(
        "--kind", choices=("imagefolder", "wds", "reference"), help="of images in no store (default: by their looks)"
    )
    command.add_argument("--out", metavar="DIR", help="for these: where scores/ goes (default: TARGET-scores)")
    command.add_argument(
        "--diversity", metavar="SELECTION", help="also print how much its images of one class differ, by level"
    )
    command.add_argument(
        "--backend", choices=("torch", "torch-compile", "onnx", "aoti", "tensorrt"), default="torch",
        help="runs the towers (default: torch)",
    )  # fmt: skip
    command.add_argument("--exported", metavar="DIR", help="of the last three: what `discl export --clip` wrote")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the towers (default: float32)",
    )
    command.add_argument("--batch", type=int, default=64, metavar="N", help="images per forward pass (default: 64)")
    add_cluster(command)
