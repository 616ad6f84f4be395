"""The arguments that spread a command over machines, and the cluster that they name."""

import argparse
import re
from typing import TYPE_CHECKING

from discl.errors import ConfigError
from discl.parts import parse_part

if TYPE_CHECKING:
    from discl.cluster.connection import Cluster


def add_part(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--part", metavar="i/n", type=parse_part,
        help="every n-th source only, for job arrays; i counts from 0 or from 1; those at one time need a store each",
    )  # fmt: skip


def add_cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ray", metavar="ADDRESS", nargs="?", const="",
        help="on a Ray cluster (auto, HOST:PORT or ray://HOST:PORT); without an address on one that it starts here",
    )  # fmt: skip
    command.add_argument(
        "--actors", metavar="LEAST-MOST", type=_span,
        help="Ray actors, such as 4 or 2-32 (default: as many as the cluster has room for)",
    )  # fmt: skip
    command.add_argument(
        "--cores", metavar="K", type=float, help="CPU cores of an actor without a GPU (default: all of one machine's)"
    )


def _span(text: str) -> tuple[int, int]:
    """ "4" -> (1, 4); "2-32" -> (2, 32)."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)", text.strip())
    least, most = (int(match[1] or 1), int(match[2])) if match else (0, 0)
    if not 1 <= least <= most:
        raise argparse.ArgumentTypeError(f"{text!r} actors; give MOST or LEAST-MOST, such as 4 or 2-32")
    return least, most


def cluster_of(args: argparse.Namespace) -> "Cluster | None":
    """None without --ray. ConfigError for actors or cores without it, and for a cluster that cannot be reached."""
    if args.ray is None:
        given = [name for name in ("actors", "cores") if getattr(args, name) is not None]
        if given:
            raise ConfigError(f"--{given[0]} without --ray: actors are Ray's; add --ray, or leave it out")
        return None
    from discl.cluster.connection import Cluster, check_reachable

    cluster = Cluster(args.ray or None, args.actors or (1, None), args.cores)
    check_reachable(cluster)
    return cluster
