"""The commands and their arguments. Building the parser imports no heavy module."""

import argparse
import sys
from typing import NoReturn

from discl import __version__
from discl.cli import commands
from discl.cli.distribution import add_cluster, add_part
from discl.cli.export_parser import add_export_commands
from discl.cli.filter_parser import add_filter_command
from discl.cli.score_parser import add_score_command
from discl.cli.store_parser import add_store_commands

EXIT_CODES = (
    "exit codes: 0 done; 1 the run failed; 2 you must change something, which a line on stderr names; "
    "130 or 143 stopped by SIGINT or SIGTERM: run the same command again to continue"
)
CONFIG = "a TOML file, or the name of a config of the package"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"discl: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="discl", description="Synthetic-to-real image spectra and curriculum training on them.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"discl {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more; show tracebacks")
    known = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = _command(known, "demo", commands.demo, "real handwriting, from hard images to a better classifier")
    demo.add_argument("--full", action="store_true", help="all policies, CUDA, FLYP and digits of low quality too")
    demo.add_argument("--out", metavar="DIR", help="where results go (default: discl-demo)")

    _add_config_commands(known)
    add_score_command(known, _command)
    add_filter_command(known, _command)

    _add_report(known)
    _add_watch(known)

    bench = _command(known, "bench", commands.bench, "run benchmarks (source checkout only)")
    bench.add_argument("names", metavar="NAME", nargs="*", help="default: all")

    stores = known.add_parser("store", help="look after stores").add_subparsers(metavar="COMMAND", required=True)
    add_store_commands(stores, _command)
    pack = _command(
        stores, "pack", commands.pack, 'real images into shards, for data.kind = "store"; again to continue'
    )
    pack.add_argument("config", metavar="CONFIG.toml", help=CONFIG)
    pack.add_argument("store", metavar="STORE", help="the folder to write")
    _overrides(pack)

    exports = known.add_parser("export", help="models for the exported backends").add_subparsers(
        metavar="COMMAND", required=True
    )
    add_export_commands(exports, _command)
    _command(known, "doctor", commands.doctor, "versions, devices and backends")
    return parser


def _add_config_commands(known) -> None:
    """What takes a config and --out."""
    for name, run, text, where in (
        (
            "plan",
            commands.plan,
            "count what generate would make, without making it",
            "also write plan.txt here",
        ),
        (
            "hard",
            commands.hard,
            "show which images get a spectrum",
            "also write hard.txt here: ids, a line each",
        ),
        (
            "prompts",
            commands.prompts,
            "write prompt sentences for the hard classes, offline; what the file has stays",
            "the file (default: spectrum.prompts, else sentences.json)",
        ),
        (
            "generate",
            commands.generate,
            "make and score the spectrum; start again to continue",
            "the store (default: store.path)",
        ),
        (
            "train",
            commands.train,
            "train a classifier; start again to continue",
            "the run (default: CONFIG-run)",
        ),
        ("evaluate", commands.evaluate, "measure a trained classifier", "the run (default: CONFIG-run)"),
    ):
        command = _command(known, name, run, text)
        command.add_argument("config", metavar="CONFIG.toml", help=CONFIG)
        _overrides(command)
        command.add_argument("--out", metavar="DIR", help=where)
        if name == "prompts":
            command.add_argument("--count", metavar="N", type=int, default=10, help="sentences per class (default: 10)")
        if name == "plan":
            command.add_argument(
                "--against", metavar="STORE", help="count what this store lacks; with --out also write missing.tsv"
            )
            command.add_argument(
                "--probe", metavar="N", type=int, nargs="?", const=8, default=0,
                help="make the spectra of N sources (default: 8) into STORE.probe first, and plan with what that took",
            )  # fmt: skip
        if name == "generate":
            add_part(command)
            add_cluster(command)


def _add_report(known) -> None:
    report = _command(known, "report", commands.report, "one HTML page from finished runs")
    report.add_argument("runs", metavar="RUN", nargs="+", help="the --out of discl train, or a store")
    report.add_argument(
        "--compare",
        action="store_true",
        help="beside the paper's rows and a real-only control, with intervals",
    )
    report.add_argument("--gate", action="store_true", help="compare, and exit with 1 where a run is certainly worse")
    report.add_argument("--out", metavar="FILE", help="the page (default: report.html in the first run)")


def _add_watch(known) -> None:
    watch = _command(known, "watch", commands.watch, "how a store's run stands, until it ends")
    watch.add_argument("store", metavar="STORE", help="a folder, also while it is written")
    watch.add_argument("--once", action="store_true", help="look once")
    watch.add_argument("--every", metavar="SECONDS", type=float, default=5.0, help="default: 5")
    watch.add_argument("--html", metavar="FILE", help="also write a page that reloads itself")
    watch.add_argument("--prometheus", metavar="FILE", help="also write metrics for a textfile collector")


def _overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", metavar="table.key=value", action="append", default=[], dest="overrides",
        help="change one value of the config, written as in TOML (spectrum.levels=[0,50]); may be given several times",
    )  # fmt: skip


def _command(known, name: str, run, text: str) -> argparse.ArgumentParser:
    command = known.add_parser(name, help=text, description=text)
    command.set_defaults(command=run)
    return command
