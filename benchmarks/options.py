"""Options that benchmarks of the engine share, and how they become a workload."""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.workload import MODELS, Workload
from discl.engine.options import DTYPES


def add_model(parser: argparse.ArgumentParser, dtype: str, repeats: int) -> None:
    parser.add_argument("--model", choices=MODELS, default="small", help="architecture, with random weights")
    parser.add_argument("--size", default="32x32", help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--dtype", choices=DTYPES, default=dtype)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--models", help="folder where the models are kept for the next call (default: nowhere)")


def add_requests(parser: argparse.ArgumentParser, steps: int) -> None:
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=steps, help="of the exact schedule")
    parser.add_argument("--slots", default="auto", help="'auto' (profiled) or a number")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--usd-per-hour", type=float, default=0.0, help="price of the device, for dollars a million")


def with_defaults(arguments: Callable[[argparse.ArgumentParser], None], options: dict) -> argparse.Namespace:
    """A call's options over the defaults of a benchmark's own `arguments`."""
    parser = argparse.ArgumentParser()
    arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **options})


def size_of(given: argparse.Namespace) -> tuple[int, int]:
    """(width, height)."""
    width, height = map(int, given.size.split("x"))
    return width, height


def slots_of(given: argparse.Namespace) -> int | str:
    return int(given.slots) if given.slots.isdigit() else given.slots


def workload_of(given: argparse.Namespace) -> Workload:
    return Workload(given.model, given.steps, 7.5, size_of(given), given.images, given.seeds)


def model_of(given: argparse.Namespace, workload: Workload, folder: Path) -> Path:
    """The model's folder: below `--models`, where it may be already, or in this run's own."""
    place = Path(given.models) / f"{given.model}-{given.dtype}" if given.models else folder / "model"
    return workload.write_model(place, DTYPES[given.dtype])


def settings_of(given: argparse.Namespace) -> dict:
    """What a row keeps of the options: not where files were."""
    return {name: value for name, value in vars(given).items() if name != "models"}
