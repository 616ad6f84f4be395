"""The data path: order of ids, start of an epoch, reading of records, loading of images; a row for each.

`order`: ids of one epoch in one thread, against numpy (draws from each pool, joins and shuffles, as the reference
code's loader does) and torch's WeightedRandomSampler (at 2^24 rows, the most that it takes). `epoch start`: a sampler
over 10^8 rows from the end of one epoch to the first batch of the next, against numpy's pools, and the most memory
that it takes meanwhile. `reader`: shuffled 20 kB records in page cache, against small C programs (read_records.c) that
pread them from one file, or open a file for each; ours checks CRC32C and keeps five batches. `loader`: JPEGs of 256
pixels to windows of 224, normalised float32, against DALI's own file reader with the same operations, torch's
DataLoader with 2 workers (PIL, torchvision's decode_jpeg) and WebDataset. Loaders take turns in steady state: before
each turn what is left in the queues is used up, after it the queues fill again. Everything runs on the CPU.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import data_loading, data_order, data_reading
from benchmarks.timing import interleave, record


def arguments(parser) -> None:
    parser.add_argument("--part", choices=sorted(PARTS), help="only this row")


def run(small: bool = False, part: str | None = None) -> None:
    for name in [part] if part else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), small)


def order(folder: Path, small: bool) -> None:
    rates = interleave(data_order.draws(10**5 if small else 10**8), 2 if small else 7)
    ratios = {
        "ids: discl / numpy": ("discl", "numpy"),
        "ids: discl / 20 M a second": ("discl", "20 M a second"),
        "shuffled rows: discl / 20 M a second": ("discl, rows in no order", "20 M a second"),
        "weighted: discl / torch": ("discl, weighted 2^24", "torch WeightedRandomSampler"),
        "weighted: discl / 20 M a second": ("discl, weighted", "20 M a second"),
    }
    record("data", rates, "million ids/s", ratios, keep=not small, part="order")


def epoch_start(folder: Path, small: bool) -> None:
    rows = 10**5 if small else 10**8
    rates = interleave(data_order.starts(rows), 2 if small else 5)
    peaks = {f"MB of {name}": np.array([megabytes]) for name, megabytes in data_order.memory(rows).items()}
    ratios = {
        "1 s / discl": ("discl", "one a second"),
        "1 s / discl, weighted": ("discl, weighted", "one a second"),
        "numpy / discl": ("discl", "numpy"),
        "100 MB / discl": ("100 MB", "MB of discl"),
        "100 MB / discl, weighted": ("100 MB", "MB of discl, weighted"),
    }
    rates |= {"100 MB": np.array([100.0]), **peaks}
    record("data", rates, "epochs/s; MB", ratios, keep=not small, part="epoch start", rows=rows)


def reader(folder: Path, small: bool) -> None:
    records = 500 if small else 20_000
    rates = interleave(data_reading.contest(folder, records), 2 if small else 9)
    ratios = {
        "2 threads / C pread": ("shards, 2 threads", "C pread, 1 thread"),
        "1 thread / C pread": ("shards, 1 thread", "C pread, 1 thread"),
        "1 thread / C pread, kept": ("shards, 1 thread", "C pread, 1 thread, kept"),
        "2 threads / C pread in 2, kept": ("shards, 2 threads", "C pread, 2 threads, kept"),
        "2 threads / C open": ("shards, 2 threads", "C open, 1 thread"),
        "1 thread / C open": ("shards, 1 thread", "C open, 1 thread"),
        "files in 2 threads / C open in 2": ("files, 2 threads", "C open, 2 threads"),
    }
    settings = {"part": "reader", "records": records, "record_bytes": data_reading.BYTES, "batch": data_reading.BATCH}
    record("data", rates, "GB/s", ratios, keep=not small, **settings)


def loader(folder: Path, small: bool) -> None:
    images, batches = (64, 2) if small else (2048, 16)
    with data_loading.contest(folder, images, batches) as contestants:
        rates = interleave(contestants, 2 if small else 7)
    ratios = {
        "discl / torch, PIL": ("discl", "torch, PIL"),
        "discl / torch, decode_jpeg": ("discl", "torch, decode_jpeg"),
        "discl / DALI": ("discl", "DALI"),
        "discl, shards / DALI": ("discl, shards", "DALI"),
        "discl, shards / WebDataset": ("discl, shards", "WebDataset"),
    }
    record("data", rates, "images/s", ratios, keep=not small, part="loader", images=images, batch=data_loading.BATCH)


PARTS = {"order": order, "epoch start": epoch_start, "reader": reader, "loader": loader}
