"""The arguments of `discl store ...`."""

import argparse
from collections.abc import Callable

from discl.cli import stores

AddCommand = Callable[..., argparse.ArgumentParser]


def add_store_commands(known, add: AddCommand) -> None:
    """add(known, name, run, text): makes one command."""
    verify = add(known, "verify", stores.verify, "check every byte")
    verify.add_argument("stores", metavar="STORE", nargs="+", help="each is checked")
    verify.add_argument(
        "--repair", action="store_true", help="keep what is whole; samples that are gone can be generated again"
    )

    export = add(known, "export", stores.export, "write a selection for others, with a data card")
    export.add_argument("store", metavar="STORE", help="where the images are")
    export.add_argument("out", metavar="OUT", help="a folder that does not exist yet")
    export.add_argument("--selection", metavar="NAME", default="default", help="default: default")
    export.add_argument(
        "--format",
        choices=("wds", "imagefolder", "hf"),
        default="wds",
        help="wds: WebDataset tars; hf: Parquet (default: wds)",
    )
    _add_shard_mb(export)

    taken = add(known, "import", stores.import_, "images from elsewhere into a store; again to continue")
    taken.add_argument("store", metavar="STORE", help="where they go; made if it is not there")
    taken.add_argument("source", metavar="SOURCE", help="a folder, or a tar")
    taken.add_argument(
        "--kind",
        default="imagefolder",
        choices=("imagefolder", "wds", "reference", "reference-list", "reference-table"),
        help="class folders, WebDataset tars, or what the released code of the paper left: its tree, list or table "
        "(default: imagefolder)",
    )
    _add_shard_mb(taken)

    merge = add(known, "merge", stores.merge, "several stores into one; again to continue")
    merge.add_argument("stores", metavar="STORE", nargs="+", help="what is merged; it stays as it is")
    merge.add_argument("--into", metavar="STORE", required=True, help="where it goes; made if it is not there")
    _add_shard_mb(merge)

    forget = add(known, "forget", stores.forget, "remove every trace of some sources; again to continue")
    forget.add_argument("store", metavar="STORE", help="it is rewritten without them")
    forget.add_argument(
        "--source", metavar="LIST", dest="sources", action="append", required=True,
        help="a file with one source id per line, or a source id; may be given several times",
    )  # fmt: skip
    _add_shard_mb(forget)
    reshard = add(known, "reshard", stores.reshard, "write all shards anew in another size; again to continue")
    compact = add(known, "compact", stores.compact, "join small shards, remove files that no manifest names")
    for command in (reshard, compact):
        command.add_argument("store", metavar="STORE", help="the same images in other shards")
        _add_shard_mb(command)


def _add_shard_mb(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--shard-mb", metavar="N", type=_megabytes, default=256.0, help="size of a shard in megabytes (default: 256)"
    )


def _megabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} megabytes; give a number above 0, at most 1000000")
    return number
