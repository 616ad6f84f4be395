"""A RunConfig becomes a trained classifier and its metrics, in a folder that reproduces the run."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from discl.atomic import write_atomic
from discl.checkpoint import Checkpoints
from discl.class_augmentation import ClassAugmentation
from discl.classifier import recipe_of
from discl.config import RunConfig, to_toml
from discl.curriculum import NATURAL
from discl.data import DataTable, load_data
from discl.dataset import SpectrumDataset
from discl.errors import ConfigError, ModelError
from discl.evaluation import evaluation_batches, groups_of, measure
from discl.fitting import fit
from discl.hard import tail_rows
from discl.kept import BEST, BLEND, Kept
from discl.learner import Learner
from discl.loader import open_loader
from discl.probe import Probe, RealDraw, choose_probe
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
    it may be continued by another number of ranks. Raises ConfigError, DataError, ModelError, StoreError for what the
    user must change, RunFailed where too many images cannot be used.
    """
    with joined(device_of(config)) as ranks:
        return _train(config, Path(out), on_event or ignore, ranks)


def _train(config: RunConfig, out: Path, on_event: OnEvent, ranks: Ranks) -> dict:
    table = load_data(config.data)
    checkpoints = Checkpoints(out / "checkpoints", identity(config, table))
    before = checkpoints.state()
    if before is None and ranks.first:
        _begin_anew(out)
    store, keys = pinned_store(config, checkpoints, ranks)
    learner = learner_of(config, table, ranks)
    learner.reset(config.train.seed, config.train.init)
    loader, stage = training_parts(config, table, store, keys, learner)
    judges = {split: judge(config, table, learner, split) for split in table.held_out}
    keep = Kept(config.train, learner, judges.get(table.selection_split or ""), out)
    if ranks.first:
        _write(out / "config.toml", to_toml(config))
        _write(out / "log.jsonl", _lines(before["history"] if before else []))
    with logged(out, on_event) if ranks.first else nullcontext(on_event) as listen:
        history = fit(learner, loader, config.train, keep.validate, listen, checkpoints, stage)
    chosen = keep.restore(history)
    predicted = {split: partial(_keep, out / "predictions" / f"{split}.npy", ranks) for split in judges}
    result = {split: judge(predicted[split]) for split, judge in judges.items()}
    headline = next((result[split] for split in ("test", "id_test", "val", "id_val") if split in result), {})
    summary = headline | {
        "splits": result,
        "chosen": chosen,
        "samples": samples_seen(loader.sampler, history),
        "class_names": list(table.class_names),
        "groups": groups_of(table.train_counts, config.hard.few_below, config.hard.many_from),
        "device": str(learner.device.type),
        "world": ranks.world,
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
    images = len(history) * sampler.curriculum.total
    return {"seconds": seconds, "speed": shares(seconds, images)}


def _publish(out: Path, history: list[dict], summary: dict) -> None:
    """Write what a finished training leaves."""
    _write(out / "log.jsonl", _lines(history))
    _write(out / "metrics.json", json.dumps(summary, indent=2) + "\n")
    from discl.report import report_runs  # a page is for people, training works without its parts

    report_runs([out])


def _begin_anew(out: Path) -> None:
    """Without its last checkpoint an earlier training in this folder is over: no result of it stays for this one's."""
    for file in (out / "metrics.json", *(out / "checkpoints" / name for name in (BEST, BLEND))):
        if file.is_file():
            file.unlink()


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
    config: RunConfig,
    table: DataTable,
    store: Store | None,
    selection="default",
    ranks: Ranks = ALONE,
    device="cpu",
    without=(),
):
    """Batches of the training split and a selection (its name or its keys), in the curriculum's order.

    What is decoded on the CPU stays there; else images are loaded to `device`. without: table rows that are not
    trained on.
    """
    tail = ranks.agree(tail_rows(config.hard, table))  # a classifier that is asked rounds in another way elsewhere
    dataset = SpectrumDataset(store, table, selection, tail=tail, without=without)
    levels = config.spectrum.levels if store else None
    sampler = CurriculumSampler(
        dataset, config.curriculum, config.train.batch, config.train.seed, ranks.rank, ranks.world, levels
    )
    view = sized(recipe_of(config.train.model).train, config.train.image_size)
    decode, place = config.train.decode, torch.device("cpu" if config.train.decode == "cpu" else device)
    return open_loader(dataset, sampler, view, config.train.workers, place, decode)


def _keep(file: Path, ranks: Ranks, labels: np.ndarray, classes: np.ndarray) -> None:
    """Labels and predicted classes, int32 [2, n], for comparisons."""
    if ranks.first:
        buffer = io.BytesIO()
        np.save(buffer, np.stack([labels, classes]).astype(np.int32), allow_pickle=False)
        _write(file, buffer.getvalue())


def samples_seen(sampler: CurriculumSampler, history: list[dict]) -> int:
    """Images that the training was shown, those of adaptive's passes over real images among them."""
    return len(history) * sampler.curriculum.total + sum(record.get("probed", 0) for record in history)


def learner_of(config: RunConfig, table: DataTable, ranks: Ranks = ALONE) -> Learner:
    """The network that [train] names, on this rank's device."""
    made = config.train
    batch, device = made.batch // ranks.world, ranks.device(device_of(config))
    names = table.class_names
    return Learner(
        made.model, names, batch, device, ranks=ranks, contrastive=made.loss == "flyp", captions=made.captions
    )


def training_parts(config: RunConfig, table: DataTable, store: Store | None, keys, learner: Learner):
    """The loader of a training and, for the policy `adaptive`, what runs before each epoch (else None)."""
    if config.curriculum.policy != "adaptive":
        loader = training_loader(config, table, store, keys, learner.ranks, learner.device)
        return augmented(config, loader, learner), None
    assert store is not None
    keys = list(store.selection(keys)) if isinstance(keys, str) else list(keys)
    levels, ranks = config.spectrum.levels, learner.ranks
    probe = choose_probe(table, store, keys, levels, config.curriculum.probe_images, config.train.seed)
    kept = [key for key in keys if key not in probe.lost]
    loader = training_loader(config, table, store, kept, ranks, learner.device, probe.rows)
    dataset, made, recipe = loader.dataset, config.train, recipe_of(config.train.model)
    draw = RealDraw(dataset, config.curriculum.probe_real, made.batch, made.seed, ranks.rank, ranks.world)
    real = open_loader(dataset, draw, sized(recipe.train, made.image_size), made.workers)
    test = sized(recipe.test, made.image_size)
    return augmented(config, loader, learner), Probe(
        config.curriculum, probe, table, store, real, test, made.workers, ranks
    )


def augmented(config: RunConfig, loader, learner: Learner):
    """The loader, or CUDA's augmentation around it."""
    if config.train.augment == "none":
        return loader
    return ClassAugmentation(loader, learner, config.train.seed)


def judge(config: RunConfig, table: DataTable, learner: Learner, split: str) -> Callable[..., dict]:
    """A function that measures the learner on a split of real images; `keep(labels, classes)` gets the predictions."""
    view = sized(recipe_of(config.train.model).test, config.train.image_size)
    dataset = SpectrumDataset(None, table, split=split)
    batches = evaluation_batches(dataset, view, EVALUATION_BATCH, config.train.workers, learner.ranks)
    bounds = config.hard.few_below, config.hard.many_from

    def measured(keep: Callable[[np.ndarray, np.ndarray], None] | None = None) -> dict:
        return measure(learner, batches, table.train_counts, *bounds, config.train.compensate, keep)

    return measured


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


def _write(path: Path, content: str | bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigError(f"--out {path.parent}: cannot be written: {error.strerror or error}") from error
