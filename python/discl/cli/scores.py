"""`discl score`: (arguments, stop) -> exit code or None."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discl.cli.distribution import cluster_of
from discl.cli.progress import progress
from discl.cli.stop import Stop
from discl.errors import ConfigError

if TYPE_CHECKING:
    from discl.data import DataTable

DEFAULT = {"name": "ViT-B-32:openai", "prompt": "a photo of a {class}"}


def score(args: argparse.Namespace, stop: Stop) -> None:
    from discl.scoring import ScoreRequest, score_images, score_store
    from discl.store.remote import as_folder

    if args.batch < 1:
        raise ConfigError(f"--batch {args.batch}: give 1 or more")
    cluster = cluster_of(args)
    target = as_folder(args.target)
    of_store = (target / "manifest").is_dir()
    judge = _judge_of(target) if of_store else DEFAULT
    clip = args.clip or judge["name"]
    request = ScoreRequest(
        name=args.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(clip).name).strip("-.") or "clip",
        clip=clip,
        prompt=judge["prompt"] if args.prompt is None else args.prompt,
        negatives=tuple(args.negative),
        pixels=args.pixels,
        data=_data(args.data),
        classifier=Path(args.classifier) if args.classifier else None,
        device=args.device,
        dtype=args.dtype,
        batch=args.batch,
        backend=args.backend,
        exported=args.exported,
    )
    with progress(stop) as on_event:
        if of_store:
            folder = score_store(target, request, on_event, cluster)
        else:
            if cluster:
                raise ConfigError(f"--ray scores stores, and {target} is none: `discl store import` it first")
            out = args.out or f"{args.target.rstrip('/')}-scores"
            folder = score_images(target, args.kind or _kind(target), out, request, on_event)
    if args.diversity and of_store:
        from discl.scoring import diversity

        found = diversity(target, args.diversity)
        print("\n".join(f"level {level}: diversity {value:.3f} of {count:,} images" for level, count, value in found))
    print(folder)


def _judge_of(store: Path) -> dict[str, Any]:
    """The CLIP and the prompt that scored a store when it was made; the usual ones where nothing did."""
    from discl.run_record import earlier_runs

    return next((run["scorer"] for run in reversed(earlier_runs(store)) if run.get("scorer")), DEFAULT)


def _kind(target: Path) -> str:
    """Tars: a WebDataset; folders named by level and seed: a tree of the paper's code; else class folders."""
    from discl.store.foreign import read_leaf

    if target.is_file() or any(target.glob("*.tar")):
        return "wds"
    leaves = (leaf for depth in ("*", "*/*") for leaf in target.glob(depth))
    return "reference" if any(read_leaf(leaf.name) for leaf in leaves) else "imagefolder"


def _data(config: str | None) -> "DataTable | None":
    if config is None:
        return None
    from discl.config import load_config
    from discl.data import load_data

    return load_data(load_config(config).data)
