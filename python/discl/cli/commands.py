"""One short function per command: (arguments, stop) -> exit code or None. Heavy imports wait inside."""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from discl.atomic import write_atomic
from discl.cli.distribution import cluster_of
from discl.cli.progress import first_rank, progress
from discl.cli.quiet import quiet
from discl.cli.stop import Stop
from discl.errors import DisclError

if TYPE_CHECKING:
    from discl.cli.plan_summary import Planned
    from discl.config import RunConfig


def demo(args: argparse.Namespace, stop: Stop) -> None:
    from discl.demo.run import run_demo

    quiet(args.verbose)
    with progress(stop) as on_event:
        page = run_demo(Path(args.out or "discl-demo"), full=args.full, on_event=on_event)
    print(page)


def plan(args: argparse.Namespace, stop: Stop) -> None:
    from discl.cli.plan_summary import Planned

    config = _config(args)
    if args.probe:
        quiet(args.verbose)
    with progress(stop) as on_event:
        planned = Planned(config, args.against or "", args.probe, on_event)
    text = planned.text
    if args.probe and config.score:
        text += "\n".join(["", *_suitability(config, planned), ""])
    print(text, end="")
    if args.out:
        _write(Path(args.out) / "plan.txt", text)
    if args.against:
        lines = [f"{one.key}\t{one.source_id}\t{one.level}\t{one.seed}\t{one.retry}" for one in planned.missing()]
        print(f"\n{len(lines):,} to make: {args.against} has the others")
        if args.out:
            header = "key\tsource_id\tlevel\tseed\tretry"
            print(_write(Path(args.out) / "missing.tsv", "\n".join([header, *lines, ""])))


def _suitability(config: "RunConfig", planned: "Planned") -> list[str]:
    from discl.cli.plan_costs import probe_store
    from discl.store import Store
    from discl.suitability import suitability

    store = Store(probe_store(config))
    return suitability(config, planned.table, store, planned.plan.recipe_digest).lines()


def hard(args: argparse.Namespace, stop: Stop) -> None:
    from discl.data import load_data
    from discl.hard import select_hard

    config = _config(args)
    table = load_data(config.data)
    rows = select_hard(config.hard, table)
    chosen = [table.labels[rows].tolist().count(label) for label in range(len(table.class_names))]
    print(f"{'hard':>6} {'train':>6}  class")
    for name, count, of in zip(table.class_names, chosen, table.train_counts, strict=True):
        print(f"{count:6d} {of:6d}  {name}")
    if args.out:
        print(_write(Path(args.out) / "hard.txt", "".join(f"{table.ids[row]}\n" for row in rows)))


def prompts(args: argparse.Namespace, stop: Stop) -> None:
    from discl.data import load_data
    from discl.hard import select_hard
    from discl.sentences import write_sentences

    config = _config(args)
    table = load_data(config.data, check=False)
    rows = select_hard(config.hard, table)
    names = [table.class_names[label] for label in sorted(set(table.labels[rows].tolist()))]
    file = Path(args.out or config.spectrum.prompts or "sentences.json")
    table_of = write_sentences(file, names, count=args.count)
    print(f"{sum(map(len, table_of.values()))} sentences for {len(table_of)} classes", file=sys.stderr)
    print(file)


def generate(args: argparse.Namespace, stop: Stop) -> None:
    overrides = [*args.overrides, *([f"store.path={_store_of(args.out)}"] if args.out else [])]
    config = _config(args, overrides)
    from discl.generation import generate

    quiet(args.verbose)
    with progress(stop) as on_event:
        store = generate(config, on_event, part=args.part, cluster=cluster_of(args))
    print(f"{len(store)} samples, {len(store.selection('default'))} accepted", file=sys.stderr)
    print(config.store.path)


def _store_of(out: str) -> str:
    from discl.store import is_url

    return out if is_url(out) else str(Path(out).absolute())


def train(args: argparse.Namespace, stop: Stop) -> None:
    config = _config(args)
    from discl.training import train

    with progress(stop) as on_event:
        train(config, _out(args), on_event)
    if first_rank():
        print(_out(args))


def evaluate(args: argparse.Namespace, stop: Stop) -> None:
    config = _config(args)
    from discl.cli.evaluate import evaluate_run

    print(json.dumps(evaluate_run(config, _out(args)), indent=1))


def report(args: argparse.Namespace, stop: Stop) -> int:
    from discl.report import report_runs

    compared = None
    if args.compare or args.gate:
        from discl.report.compare import as_text, compare, table

        compared = compare(args.runs)
        print(as_text(table(compared)))
    print(report_runs(args.runs, args.out, compared))
    regressions = [one for run in compared or () for one in run.regressions] if args.gate else []
    for line in regressions:
        print(f"discl: regression: {line}", file=sys.stderr)
    return 1 if regressions else 0


def watch(args: argparse.Namespace, stop: Stop) -> None:
    from discl.cli.watch import watch

    watch(args, stop)


def bench(args: argparse.Namespace, stop: Stop) -> int:
    import discl

    root = Path(discl.__file__).parents[2]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise DisclError("benchmarks are not part of the installed package; run discl bench in a source checkout")
    return subprocess.run([sys.executable, "-m", "benchmarks", *args.names], cwd=root).returncode


def pack(args: argparse.Namespace, stop: Stop) -> None:
    config = _config(args)
    from discl.data import load_data
    from discl.data.packed import pack

    with progress(stop) as on_event:
        store = pack(load_data(config.data), args.store, int(config.store.shard_mb * 2**20), on_event)
    print(f"{len(store)} images", file=sys.stderr)
    print(args.store)


def doctor(args: argparse.Namespace, stop: Stop) -> None:
    from discl.engine.backends.here import findings
    from discl.engine.options import find_device
    from discl.run_record import hardware, versions

    for name, version in versions().items():
        print(f"{name:16} {version}")
    facts = hardware()
    print(f"{'system':16} {facts['system']}, {facts['cores']} cores")
    print(f"{'devices':16} {', '.join(['cpu', *facts['gpus']])}")
    device = find_device("auto")
    for name, works, text in findings(device):
        print(f"{name:16} {'works' if works else 'not here'}: {text}")
    dali = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
    print(f"{'loaders':16} {'dali, torch' if dali else 'torch (nvidia-dali is not installed)'}")


def _config(args: argparse.Namespace, overrides: list[str] | None = None) -> "RunConfig":
    from discl.config import load_config

    return load_config(args.config, args.overrides if overrides is None else overrides)


def _out(args: argparse.Namespace) -> Path:
    return Path(args.out or f"{Path(args.config).stem}-run")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path
