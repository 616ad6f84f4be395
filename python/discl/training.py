"""A RunConfig becomes a trained classifier and its metrics, in a folder that reproduces the run."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import torch

from discl.atomic import write_atomic
from discl.checkpoint import Checkpoints
from discl.classifier import recipe_of
from discl.config import RunConfig, to_toml
from discl.curriculum import NATURAL
from discl.data import DataTable, load_data
from discl.dataset import SpectrumDataset
from discl.errors import ConfigError, ModelError
from discl.evaluation import evaluation_batches, measure
from discl.fitting import fit
from discl.hard import tail_rows
from discl.learner import Learner
from discl.loader import open_loader
from discl.progress import Event, OnEvent, ignore
from discl.ranks import ALONE, Ranks, joined
from discl.sampler import CurriculumSampler
from discl.scalars import Scalars
from discl.spent import PARTS, shares
from discl.store import Store
from discl.views import View

EVALUATION_BATCH = 256
SELECTION = "selection.txt"  # beside the checkpoint


def train(config: RunConfig, out: str | Path, on_event: OnEvent | None = None) -> dict:
    """Train on the data and, if the policy needs it, the store's selection `default`; returns the metrics.

    `out` receives metrics.json, config.toml, log.jsonl, checkpoints/, report.html and, with the package, tensorboard/.
    `on_event` gets an event "progress" after every step (rate, input_wait, compute, bottleneck) and "epoch" after every
    epoch. Run again with the same config, it goes on where it stopped, to the same weights, with the images that the
    store had selected when it began; a finished run returns its metrics again. To train on a store that has grown, use
    a new `out`.
    Under torchrun all ranks train on the same global batches and return the same metrics, the first one writes;
    it may be continued by another number of ranks. Raises DisclError: see the parts for what can be wrong.
    """
    if config.curriculum.policy == "adaptive":
        raise ConfigError(
            "curriculum.policy = 'adaptive' needs a probe after each stage, which `train` does not run yet; "
            "use CurriculumSampler.observe in your own loop, or another policy"
        )
    with joined(device_of(config)) as ranks:
        return _train(config, Path(out), on_event or ignore, ranks)


def _train(config: RunConfig, out: Path, on_event: OnEvent, ranks: Ranks) -> dict:
    table = load_data(config.data)
    checkpoints = Checkpoints(out / "checkpoints", identity(config, table))
    before = checkpoints.state()
    store, keys = pinned_store(config, checkpoints, ranks)
    batch, device = config.train.batch // ranks.world, ranks.device(device_of(config))
    loader = training_loader(config, table, store, keys, ranks, device)
    learner = Learner(config.train.model, len(table.class_names), batch, device, ranks=ranks)
    learner.reset(config.train.seed, config.train.init)
    judges = {split: judge(config, table, learner, split) for split in table.held_out}
    if ranks.first:
        _write(out / "config.toml", to_toml(config))
        _write(out / "log.jsonl", _lines(before["history"] if before else []))
    with logged(out, on_event) if ranks.first else nullcontext(on_event) as listen:
        history = fit(learner, loader, config.train, judges.get("val"), listen, checkpoints)
    result = {split: judge() for split, judge in judges.items()}
    summary = result.get("test", result.get("val", {})) | {
        "splits": result,
        "policy": config.curriculum.policy,
        "loss": config.train.loss,
        "seed": config.train.seed,
        "steps": history[-1]["steps"],
        "snapshot": store.snapshot() if store else None,
        "substituted": sum(ranks.gather(loader.substituted)),
        "quarantined": len(table.quarantined),
        "decoding": loader.state_dict().get("decoding"),
        **ranks.agree(speed(history, loader.sampler)),
    }
    if ranks.first:
        _publish(out, history, summary)
    return summary


@contextmanager
def logged(out: Path, on_event: OnEvent) -> Iterator[OnEvent]:
    """A listener that also appends what is worth keeping to log.jsonl, and epochs to tensorboard/."""
    with closing(Scalars(out / "tensorboard")) as scalars:

        def listen(event: Event) -> None:
            if event["event"] != "progress":
                with open(out / "log.jsonl", "a") as log:
                    log.write(json.dumps(event) + "\n")
            if event["event"] == "epoch":
                scalars.write(event)
            on_event(event)

        yield listen


def speed(history: list[dict], sampler: CurriculumSampler) -> dict:
    """Of all epochs: seconds by part, and what `shares` makes of them."""
    seconds = {part: sum(record["spent"][part] for record in history) for part in PARTS}
    images = sum(sampler.plan(record["epoch"]).total for record in history)
    return {"seconds": seconds, "speed": shares(seconds, images)}


def _publish(out: Path, history: list[dict], summary: dict) -> None:
    """Write what a finished training leaves."""
    _write(out / "log.jsonl", _lines(history))
    _write(out / "metrics.json", json.dumps(summary, indent=2) + "\n")
    from discl.report import report_runs  # a page is for people, training works without its parts

    report_runs([out])


def identity(config: RunConfig, table: DataTable) -> str:
    """What a training must share with its checkpoint to go on from it: the config and the real images."""
    rows = zip(table.ids, table.splits, table.labels.tolist(), strict=True)
    return digest(to_toml(config), *(f"{split} {label} {name}" for name, split, label in rows))


def pinned_store(
    config: RunConfig, checkpoints: Checkpoints, ranks: Ranks = ALONE
) -> tuple[Store | None, list[str]]:  # fmt: skip
    """The store and the keys of its selection `default`: those of the checkpoint, else as they are now.

    The snapshot stands in every checkpoint and the keys beside it in selection.txt, one per line, so a store
    that grows or selects anew does not change a training that has begun. (None, []) for policies of real
    images. Raises StoreError when the store is not the checkpoint's any more, ModelError for damaged keys.
    """
    if config.curriculum.policy in (NATURAL, "real-only"):
        return None, []
    file, state = checkpoints.path.with_name(SELECTION), checkpoints.state()
    snapshot = state["snapshot"] if state else ranks.agree(Store(config.store.path).snapshot())
    store = Store(config.store.path, at=snapshot)
    if state is None:
        keys = ranks.agree(store.selection("default"))
        if ranks.first:
            _write(file, "".join(f"{key}\n" for key in keys))
    else:
        keys = file.read_text().split() if file.is_file() else []
    checkpoints.pinned = {"snapshot": store.snapshot(), "selection": digest(*keys)}
    if state and state["selection"] != checkpoints.pinned["selection"]:
        raise ModelError(f"{file}: not the selection that this training began with; restore it or use another --out")
    return store, keys


def training_loader(
    config: RunConfig, table: DataTable, store: Store | None, selection="default", ranks: Ranks = ALONE, device="cpu"
):  # fmt: skip
    """Batches of the training split and a selection (its name or its keys), in the curriculum's order.

    What is decoded on the CPU stays there; else images are loaded to `device`.
    """
    dataset = SpectrumDataset(store, table, selection, tail=tail_rows(config.hard, table))
    levels = config.spectrum.levels if store else None
    sampler = CurriculumSampler(
        dataset, config.curriculum, config.train.batch, config.train.seed, ranks.rank, ranks.world, levels
    )
    view = sized(recipe_of(config.train.model).train, config.train.image_size)
    decode, place = config.train.decode, torch.device("cpu" if config.train.decode == "cpu" else device)
    return open_loader(dataset, sampler, view, config.train.workers, place, decode)


def judge(config: RunConfig, table: DataTable, learner: Learner, split: str) -> Callable[[], dict]:
    """A function that measures the learner on a split of real images."""
    view = sized(recipe_of(config.train.model).test, config.train.image_size)
    dataset = SpectrumDataset(None, table, split=split)
    batches = evaluation_batches(dataset, view, EVALUATION_BATCH, config.train.workers, learner.ranks)
    bounds = config.hard.few_below, config.hard.many_from
    return lambda: measure(learner, batches, table.train_counts, *bounds)


def sized(view: View, size: int) -> View:
    return replace(view, size=size) if size else view


def device_of(config: RunConfig) -> str:
    if config.train.device != "auto":
        return config.train.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def digest(*texts: str) -> str:
    """32 hex characters that stand for these texts."""
    return blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def _lines(history: list[dict]) -> str:
    return "".join(json.dumps({"event": "epoch", **record}) + "\n" for record in history)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    except OSError as error:
        raise ConfigError(f"--out {path.parent}: cannot be written: {error.strerror or error}") from error
