"""The arguments of `discl filter`."""

import argparse
from collections.abc import Callable

from discl.cli import filters


def add_filter_command(known, add: Callable[..., argparse.ArgumentParser]) -> None:
    """add(known, name, run, text): makes one command."""
    command = add(known, "filter", filters.filter, "choose images by their scores: writes a selection, moves no image")
    command.add_argument("store", metavar="STORE", help="where the images and their scores are")
    command.add_argument("--name", default="default", help="of the selection (default: default)")
    command.add_argument("--scorer", metavar="NAME", help="judge by scores/NAME/ that `discl score` wrote")
    command.add_argument("--recipe", metavar="DIGEST", help="choose among this recipe's images")
    command.add_argument("--dry-run", action="store_true", help="only tell what would be kept")
    command.add_argument("--below-rule", action="store_true", help="allow cuts below those of early rejection")

    quality = command.add_argument_group("quality")
    quality.add_argument("--threshold", type=float, metavar="T", help="lowest text score")
    quality.add_argument(
        "--class-threshold", type=_pair, action="append", default=[], metavar="CLASS=T", help="of one class"
    )
    quality.add_argument(
        "--level-threshold", type=_pair, action="append", default=[], metavar="LEVEL=T", help="of one level"
    )
    quality.add_argument("--quantile", type=float, metavar="Q", help="drop the lowest share Q of the text scores")
    quality.add_argument(
        "--by", choices=("all", "class", "level", "class-level"), default="all", help="whose quantile (default: all)"
    )
    quality.add_argument("--margin", type=float, metavar="M", help="lowest lead over the best other class")
    quality.add_argument("--rank", type=int, metavar="R", help="own class among the best R (needs --scorer)")
    quality.add_argument(
        "--duplicates", type=float, metavar="COSINE", help="drop images of one source that are closer than this"
    )
    quality.add_argument(
        "--duplicate-cap", type=int, default=1, metavar="N", help="images of such a group that stay (default: 1)"
    )

    numbers = command.add_argument_group("numbers")
    numbers.add_argument("--best", type=int, metavar="K", help="the best K of every source and level")
    numbers.add_argument("--quota", type=int, metavar="N", help="the best N of every class")
    numbers.add_argument(
        "--balance", choices=("full", "sqrt", "capped"), help="fill classes up towards the largest one's real count"
    )
    numbers.add_argument("--balance-cap", type=int, metavar="N", help="target of --balance capped, real and synthetic")
    numbers.add_argument(
        "--data", metavar="CONFIG.toml", help="real counts for --balance (default: sources in the store)"
    )
    numbers.add_argument(
        "--minimum", type=int, metavar="N",
        help="where a source has fewer than N images of a level, take back what numbers left out, there or a level on",
    )  # fmt: skip


def _pair(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER") from None
