"""Training through the loader beside the same steps without it.

demo: the demo's classifier, batch and curriculum on its digits, with a store of as many images as the demo selects.
`with loader / steps alone` is 1 - input wait, from the seconds that `fit` reports; `load`: of
the machine over the minute before, its neighbours included. On CUDA: ResNet-50 and ViT-B/16 on
JPEGs of 256 pixels through CurriculumLoader, beside the same compiled bfloat16 step on one resident batch.
"""

import dataclasses
import io
import os
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from benchmarks.timing import interleave, record
from discl.config import CurriculumConfig
from discl.data import DataTable, load_data
from discl.dataset import SpectrumDataset
from discl.demo.run import demo_config
from discl.fitting import fit
from discl.hard import select_hard
from discl.learner import Learner
from discl.loader import PHOTO, open_loader
from discl.losses import IGNORED
from discl.sampler import CurriculumSampler
from discl.staging import staged
from discl.store import Store, StoreWriter
from discl.training import training_loader

QUEUED = 8  # batches at most that wait in the loader's queues when a turn begins, and do not count
NETWORKS = {"resnet50": torchvision.models.resnet50, "vit_b_16": torchvision.models.vit_b_16}


def demo_store(config, table) -> Store:
    """Every hard digit, enlarged and noisy, at every level and seed."""
    random, number = np.random.default_rng(0), 0
    with StoreWriter(config.store.path, "bench", shard_bytes=1 << 24) as writer:
        for row in select_hard(config.hard, table):
            image = Image.open(table.paths[row]).convert("RGB").resize((32, 32))
            for level in config.spectrum.levels:
                for seed in config.spectrum.seeds:
                    noisy = np.clip(np.asarray(image) + random.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                    label, number = int(table.labels[row]), number + 1
                    known = {"key": f"{number:032x}", "source_id": table.ids[row], "status": "ok", "retry": 0}
                    known |= {"class_id": label, "class_name": table.class_names[label], "level": level, "seed": seed}
                    writer.append(known, encoded(noisy, "PNG"), "png", None)
    store = Store(config.store.path)
    store.write_selection("default", store.keys(), {"rule": "all"})
    return store


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def demo(small: bool) -> None:
    rounds, epochs = (2, 2) if small else (5, 65)
    with tempfile.TemporaryDirectory() as folder:
        config = demo_config(Path(folder))
        shorter = {"epochs": epochs, "curriculum_epochs": epochs - 1}
        config = config.model_copy(update={"curriculum": config.curriculum.model_copy(update=shorter)})
        table = load_data(config.data)
        store = demo_store(config, table)
        learner = Learner(config.train.model, len(table.class_names), config.train.batch)
        rates: dict[str, list[float]] = {"with loader": [], "steps alone": []}
        for number in range(rounds + 1):
            learner.reset(number)
            history = fit(learner, training_loader(config, table, store), config.train)
            seconds = {part: sum(row["spent"][part] for row in history) for part in ("loader", "step")}
            if number:  # the first compiles
                rates["steps alone"].append(history[-1]["steps"] / seconds["step"])
                rates["with loader"].append(history[-1]["steps"] / sum(seconds.values()))
    ratios = {"with loader / steps alone": ("with loader", "steps alone")}
    arrays = {name: np.array(values) for name, values in rates.items()}
    record("train", arrays, "steps/s", ratios, keep=not small, model="demo", load=os.getloadavg()[0])


def photos(folder: Path, count: int, side: int) -> DataTable:
    """JPEGs of smooth noise in ten classes."""
    random, paths = np.random.default_rng(0), []
    for number in range(count):
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    labels = np.arange(count) % 10
    return DataTable([Path(path).name for path in paths], paths, labels, ["train"] * count, tuple("abcdefghij"))


class Contest:
    """One network's step, fed by the loader or by one resident batch; each returns images/s."""

    def __init__(self, make, table: DataTable, device: str, batch: int, steps: int, size: int, threads: int):
        self.device, self.batch, self.steps = torch.device(device), batch, steps
        dataset, natural = SpectrumDataset(None, table), CurriculumConfig(policy="none", epochs=1 << 20)
        sampler = CurriculumSampler(dataset, natural, batch, 0, levels=())
        view = dataclasses.replace(PHOTO, size=size, flip=True, min_area=0.25)
        loader = open_loader(dataset, sampler, view, threads, self.device)
        self.batches = ((each.images, each.labels) for each in staged(loader, batch, self.device))
        self.model = make(num_classes=10).to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, fused=True)
        self.loss = torch.compile(self._loss, dynamic=False, disable=self.device.type == "cpu")
        self.first = next(self.batches)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return torch.nn.functional.cross_entropy(self.model(images).float(), labels, ignore_index=IGNORED)

    def _train(self, batches, steps: int) -> None:
        for images, labels in islice(batches, steps):
            self.loss(images, labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _rate(self, batches) -> float:
        self._train(batches, QUEUED)
        begin = time.perf_counter()
        self._train(batches, self.steps)
        return self.steps * self.batch / (time.perf_counter() - begin)

    def resident(self) -> float:
        return self._rate(cycle([self.first]))

    def loader(self) -> float:
        return self._rate(self.batches)


def networks(small: bool) -> None:
    """In small size a tiny network on the CPU proves the script."""
    there = {"tiny": torchvision.models.shufflenet_v2_x0_5} if small else NETWORKS
    device, batch, steps, size = ("cpu", 4, 2, 32) if small else ("cuda", 256, 50, 224)
    if not small and not torch.cuda.is_available():
        print(f"train: {', '.join(there)}: not run, there is no CUDA device")
        return
    with tempfile.TemporaryDirectory() as folder:
        table = photos(Path(folder), 20 if small else 20 * batch, 256)
        for name, make in there.items():
            contest = Contest(make, table, device, batch, steps, size, threads=2 if small else 16)
            for warm_up in (contest.resident, contest.loader, contest.loader, contest.loader, contest.loader):
                warm_up()  # compiles, and lets the loader choose where to decode
            rates = interleave({"loader": contest.loader, "resident": contest.resident}, 2 if small else 5)
            ratios = {"loader / resident": ("loader", "resident")}
            record("train", rates, "images/s", ratios, keep=not small, model=name, batch=batch, size=size)


def run(small: bool = False) -> None:
    demo(small)
    networks(small)
