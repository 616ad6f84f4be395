"""Contestants of loading: 256-pixel JPEGs to random windows of 224, flipped or not, normalised float32; images/s."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchvision
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from discl.data import DataTable
from discl.data.packed import pack
from discl.dataset import SpectrumDataset
from discl.loader import CurriculumLoader
from discl.sampler import CurriculumSampler
from discl.views import View

BATCH, THREADS, QUEUED = 64, 2, 6  # at most so many batches wait in any contestant's queues
VIEW = View(224, min_area=0.25, flip=True)
# The others draw again where a window does not fit; ours cuts it off. So both cover 0.617 in the mean.
AREAS = (0.355, 1.0)


def photos(folder: Path, count: int) -> list[str]:
    """Smooth colours with some grain: about 25 kB each, as photographs of this size have."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        grain = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (256, 256, 3), np.int16)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


@contextmanager
def contest(folder: Path, count: int, batches: int) -> Iterator[dict[str, Callable[[], float]]]:
    """Every contestant loads `batches` batches a turn; torch's workers are forked before any thread is started."""
    paths = photos(folder, count)
    table = DataTable(paths, paths, np.zeros(count, np.int64), ["train"] * count, ("photo",))
    shards = sorted(str(path) for path in (pack(table, folder / "packed").path / "shards").glob("*.tar"))
    loaders: dict[str, Iterator[torch.Tensor]] = {
        "torch, PIL": endless(torch_loader(Photos(paths, pil_image))),
        "torch, decode_jpeg": endless(torch_loader(Photos(paths, torchvision_image))),
        "WebDataset": endless(webdataset_loader(shards)),
    }
    for source in loaders.values():
        next(source)
    loaders |= {
        "DALI": dali(paths),
        "discl": endless(discl_loader(table)),
        "discl, shards": endless(discl_loader(packed(folder / "packed"))),
    }
    yield {name: lambda source=source: rate(source, batches) for name, source in loaders.items()}


def rate(source: Iterator[torch.Tensor], batches: int) -> float:
    """Images/s in steady state; other contestants find the machine idle afterwards."""
    for _ in range(QUEUED):
        next(source)
    begin = time.perf_counter()
    images = sum(len(next(source)) for _ in range(batches))
    seconds = time.perf_counter() - begin
    time.sleep(QUEUED * seconds / batches)
    return images / seconds


def endless(loader) -> Iterator[torch.Tensor]:
    while True:
        for batch in loader:
            yield batch["image"] if isinstance(batch, dict) else batch


def discl_loader(table: DataTable) -> CurriculumLoader:
    """One long epoch: every image many times, in the sampler's order."""
    data = SpectrumDataset(None, table)
    keys = {"policy": "none", "epochs": 1, "curriculum_epochs": 0, "tail_share": "auto", "level": None}
    sampler = CurriculumSampler(data, SimpleNamespace(**keys, nontail_share=1.0, synthetic_scale=0.0), BATCH, 0)
    return CurriculumLoader(data, sampler, VIEW, THREADS)


def packed(store: Path) -> DataTable:
    load = import_module("discl.data").load_data
    return load(SimpleNamespace(kind="store", root=str(store), max_bad_share=0, allow_licenses=()))


def dali(paths: list[str]) -> Iterator[torch.Tensor]:
    """DALI's own file reader, its own random windows, the same decoder and filter, no copy of what comes out."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    types: Any = import_module("nvidia.dali.types")
    pipeline = Pipeline(BATCH, THREADS, device_id=None, prefetch_queue_depth=2)
    with pipeline:
        encoded, _ = fn.readers.file(files=paths, random_shuffle=True)
        images: Any = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        images = fn.random_resized_crop(
            images, size=[224, 224], random_area=list(AREAS), interp_type=types.INTERP_TRIANGULAR, antialias=True
        )
        images = fn.crop_mirror_normalize(
            images, dtype=types.FLOAT, output_layout="CHW", mean=list(VIEW.mean), std=list(VIEW.std),
            mirror=fn.random.coin_flip(),
        )  # fmt: skip
        pipeline.set_outputs(images)
    pipeline.build()
    while True:
        yield torch.from_dlpack(pipeline.run()[0].as_tensor())


class Photos(Dataset):
    def __init__(self, paths: list[str], load: Callable[[str], torch.Tensor]) -> None:
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.load(self.paths[row])


TRANSFORM = v2.Compose([
    v2.RandomResizedCrop(224, scale=AREAS, antialias=True),
    v2.RandomHorizontalFlip(),
    v2.ToImage(),
    v2.ToDtype(torch.float32),
    v2.Normalize(list(VIEW.mean), list(VIEW.std)),
])  # fmt: skip


def pil_image(path: str) -> torch.Tensor:
    with Image.open(path) as image:
        return TRANSFORM(image.convert("RGB")).as_subclass(torch.Tensor)


def torchvision_image(path: str) -> torch.Tensor:
    image = torchvision.io.decode_jpeg(torchvision.io.read_file(path), mode=torchvision.io.ImageReadMode.RGB)
    return TRANSFORM(image).as_subclass(torch.Tensor)


def torch_loader(data: Dataset) -> DataLoader:
    return DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True)


def webdataset_loader(shards: list[str]) -> DataLoader:
    """Its own shuffle buffer and PIL decoding; shards are split between the workers where there are enough."""
    split = webdataset.split_by_worker if len(shards) > 1 else None
    data = webdataset.WebDataset(shards, shardshuffle=False, workersplitter=split, nodesplitter=None, empty_check=False)
    data = data.shuffle(1000).map(lambda sample: TRANSFORM(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")))
    data = data.map(lambda image: image.as_subclass(torch.Tensor)).batched(
        BATCH, collation_fn=torch.stack, partial=False
    )
    return DataLoader(data, None, num_workers=2, persistent_workers=True)
